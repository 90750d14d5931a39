"""What a study is, as checked by pydantic: data, space, sampler, ASHA, budget, resources, seed.

`search.config.config_file` reads it from YAML; the resolved form is saved as `config.yaml` in the
study folder, all defaults written out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from data.source import DataSpec
from model.config import Configuration
from search.config.baselines import BASELINES
from search.config.database_url import check_url
from search.config.sections import (
    CheckpointsSection,
    FinalSection,
    LimitsSection,
    Positive,
    ResourcesSection,
    Section,
)
from search.config.space import Space


class DataSection(Section):
    """Which images, and how many of them are held out for validation."""

    source: str = "fashion-mnist"
    """`fashion-mnist`, `synthetic`, or a directory (IDX files, CSV files or image folders)."""
    fallback: Literal["synthetic"] | None = None
    """Data to use where `source` can neither be found nor downloaded; said wherever it is used."""
    validation_images: Positive = 6000
    """Number of training images held out, stratified by class, to score trials."""
    train_images: Positive | None = None
    """Use only this many training images (before the split); null for all."""
    image_size: Positive = 28
    """Side in pixels to which image folders are resized."""
    colour: bool = False
    """Read image folders as RGB instead of grey."""
    synthetic_train: Positive = 12000
    synthetic_test: Positive = 2000
    seed: int = Field(default=0, ge=0)
    """Seed of the split, and of `synthetic`."""

    @model_validator(mode="after")
    def _can_be_loaded(self) -> DataSection:
        self.spec()  # has bounds of its own
        return self

    def spec(self) -> DataSpec:
        """Return what `data.source` needs to load the images."""
        return DataSpec(
            source=self.source,
            image_size=self.image_size,
            colour=self.colour,
            synthetic_train=self.synthetic_train,
            synthetic_test=self.synthetic_test,
            seed=self.seed,
        )


Auto = Literal["auto"]


class SamplerSection(Section):
    """How configurations are proposed."""

    kind: Literal["fidelity", "tpe", "random"] = "fidelity"
    """`fidelity`: a model of the values at all rungs. `tpe`: Optuna's, told values as they are."""
    startup_trials: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Trials spread over the space before a model is used; `auto`: by the number of slots."""


class AshaSection(Section):
    """Asynchronous successive halving (Li et al., arXiv:1810.05934)."""

    enabled: bool = True
    form: Literal["stopping", "promotion"] = "promotion"
    """`promotion`: every trial pauses at its rung and goes on from its checkpoint when it belongs
    to the best there. `stopping`: a weak trial ends at its rung, the others never wait."""
    reduction_factor: Annotated[int, Field(ge=2)] | Auto = "auto"
    """eta: about one trial in eta goes on past each rung."""
    grace_epochs: Positive | Auto = "auto"
    """r: the first rung; no trial is stopped before it. `auto`: by `max_epochs` and the budget."""
    min_competitors: int = Field(default=3, ge=1)
    """A trial is judged only when at least this many others have a value at the rung."""
    brackets: Positive = 1
    """Bracket s has its first rung at r eta^s, and competes with itself only."""
    grow: bool = False
    """PASHA: train on to `max_epochs` only while rankings still change (form promotion)."""
    audit_share: float | Auto = "auto"
    """Share of the trials to be stopped that run on, to measure what stopping costs; `auto`: 0.05
    where at least 200 trials are expected, or less where that would take more than a tenth of the
    epochs; else 0."""

    @field_validator("audit_share")
    @classmethod
    def _is_a_share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"{value:g} is no share from 0 to 1")
        return value

    @model_validator(mode="after")
    def _forms_agree(self) -> AshaSection:
        if self.grow and self.form != "promotion":
            raise ValueError("grow needs form: promotion")
        if self.grow and self.audit_share not in ("auto", 0.0):
            # Who would have been promoted later is not known where the longest training grows.
            raise ValueError("grow and audit_share exclude each other; leave one of them out")
        return self


class BudgetSection(Section):
    """When the search ends: whichever limit is met first. At least one of the first four is needed.

    Trials in flight are stopped at their next epoch where epochs, seconds or device-hours are
    spent; after the last of `trials`, at a plateau and at a small regret bound they go on.
    """

    trials: Positive | None = None
    epochs: Positive | None = None
    """Epochs trained by all trials together."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall seconds of searching."""
    device_hours: float | None = Field(default=None, gt=0)
    """Hours of one CPU core, or of one GPU where trials use GPUs, given to trials: how long each
    held its slot, times the cores or the share of a GPU of a slot."""
    plateau_trials: Positive | None = None
    """End when this many trials in a row have ended without a better one. Trials that failed or
    diverged are left out."""
    plateau_delta: float = Field(default=0.0, ge=0, lt=1)
    """Validation accuracy, as a fraction, by more than which a better trial must be better."""
    regret_bound: float | None = Field(default=None, gt=0, lt=1)
    """End when at most this much validation accuracy, as a fraction, is likely to be left to gain:
    Optuna's regret bound, known from the 20th trial that was trained to its end."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> BudgetSection:
        if not any((self.trials, self.epochs, self.seconds, self.device_hours)):
            stops = "; a plateau or a small regret bound may never come"
            raise ValueError(
                "no limit is set; give at least one of trials, epochs, seconds, device_hours"
                + (stops if self.plateau_trials or self.regret_bound else "")
            )
        if self.plateau_delta and self.plateau_trials is None:
            raise ValueError("plateau_delta does nothing without plateau_trials; give both")
        return self


class StudyConfig(Section):
    """One study."""

    study: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name; its folder is `runs/<study>`."""
    storage: str | None = None
    """`postgresql://[USER@]HOST[:PORT]/DATABASE` to keep the record on a server, which several
    studies may share; null for `study.db` in the study's folder."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_epochs: Positive = 9
    """R: epochs of a trial that is never stopped, and the length of its learning-rate schedule."""
    data: DataSection = DataSection()
    space: dict[str, Any]
    """Search space: see `search.config.space.Space`."""
    limits: LimitsSection = LimitsSection()
    baselines: tuple[str, ...] = Field(default=tuple(BASELINES), strict=False)
    """Networks run as the first trials, by name."""
    points: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    """The user's own configurations, as values of the space's parameters, run after the baselines;
    a parameter that is left out is proposed by the sampler."""
    sampler: SamplerSection = SamplerSection()
    asha: AshaSection = AshaSection()
    budget: BudgetSection
    resources: ResourcesSection = ResourcesSection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    final: FinalSection = FinalSection()

    @field_validator("storage")
    @classmethod
    def _is_a_database(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
        return url

    @field_validator("baselines")
    @classmethod
    def _known_baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BASELINES:
                raise ValueError(f"unknown baseline {name!r}; known: {', '.join(BASELINES)}")
        if len(set(names)) != len(names):
            raise ValueError("a baseline is named twice")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        space = self.search_space()
        for index, point in enumerate(self.points):
            try:
                space.check_point(point)
            except ValueError as error:
                raise ValueError(f"points[{index}]: {error}") from None
        grace = self.asha.grace_epochs
        if self.asha.enabled and grace != "auto" and grace > self.max_epochs:
            raise ValueError(
                f"asha.grace_epochs is {grace}, but must be at most max_epochs ({self.max_epochs})"
            )
        return self

    def search_space(self) -> Space:
        """Return the space, ready to propose from."""
        return Space.parse(self.space, epochs=self.max_epochs)

    def baseline_configurations(self) -> dict[str, Configuration]:
        """Return the baselines' configurations by name, at this study's number of epochs."""
        return {name: BASELINES[name].configuration(self.max_epochs) for name in self.baselines}
