"""What a study is, as checked by pydantic: data, space, sampler, ASHA, budget, resources, seed.

`search.config_file` reads it from YAML; the resolved form is saved as `config.yaml` in the study
folder, all defaults written out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.source import DataSpec
from model.config import Configuration
from search.baselines import BASELINES
from search.space import Space

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the study file: unknown keys are refused, values never change after checking."""

    # Strict: `max_epochs: true` is a mistake, not 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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


class SamplerSection(Section):
    """How Optuna proposes configurations."""

    kind: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)
    """Trials drawn at random before TPE's model is used."""


class AshaSection(Section):
    """Asynchronous successive halving, stopping form (Li et al., arXiv:1810.05934)."""

    enabled: bool = True
    reduction_factor: int = Field(default=3, ge=2)
    """eta: about one trial in eta goes on past each rung."""
    grace_epochs: Positive = 1
    """r: the first rung; no trial is stopped before it."""
    min_competitors: int = Field(default=3, ge=1)
    """A trial is stopped only when at least this many others have a value at the rung."""


class BudgetSection(Section):
    """When the search ends: whichever limit is met first. At least one is needed."""

    trials: Positive | None = None
    epochs: Positive | None = None
    """Epochs trained by all trials together."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall seconds of searching; trials in flight are stopped at their next epoch."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> BudgetSection:
        if self.trials is None and self.epochs is None and self.seconds is None:
            raise ValueError("no limit is set; give at least one of trials, epochs, seconds")
        return self


class LimitsSection(Section):
    """What a proposed network may cost; one that costs more is infeasible and not trained."""

    parameters: Positive | None = None
    multiply_adds: Positive | None = None
    """Per image, one forward pass."""

    def refuse(self, parameters: int, multiply_adds: int) -> str:
        """Return why a network costs more than allowed, or an empty string."""
        for name, cost, limit in (
            ("parameters", parameters, self.parameters),
            ("multiply-adds", multiply_adds, self.multiply_adds),
        ):
            if limit is not None and cost > limit:
                return f"{cost} {name}, but at most {limit} are allowed"
        return ""


class ResourcesSection(Section):
    """What one trial gets, and how many run at a time."""

    cpus_per_trial: Positive = 1
    """CPU threads of one trial."""
    gpus_per_trial: float | Literal["auto"] = "auto"
    """GPU share of one trial; `auto`: 0 without a GPU, else one GPU divided by 4."""
    max_concurrent: Positive | Literal["auto"] = "auto"
    """Trials at a time; `auto`: as many as the CPUs and GPUs hold."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not (0 <= value <= 1 or value == int(value) > 0):
            raise ValueError(f"{value:g} is no share from 0 to 1, nor a whole number of GPUs")
        return value


class FinalSection(Section):
    """What happens after the search."""

    seeds: Positive = 3
    """Fresh seeds with which the best configuration is retrained on all training data."""
    baseline_seeds: int = Field(default=1, ge=0)
    """Fresh seeds for each baseline; 0 leaves the baselines out."""
    export: bool = True


class StudyConfig(Section):
    """One study."""

    study: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name; its folder is `runs/<study>`."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_epochs: Positive = 9
    """R: epochs of a trial that is never stopped, and the length of its learning-rate schedule."""
    data: DataSection = DataSection()
    space: dict[str, Any]
    """Search space: see `search.space.Space`."""
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
    final: FinalSection = FinalSection()

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
        if self.asha.enabled and self.asha.grace_epochs > self.max_epochs:
            raise ValueError(
                f"asha.grace_epochs is {self.asha.grace_epochs}, but must be at most"
                f" max_epochs ({self.max_epochs})"
            )
        return self

    def search_space(self) -> Space:
        """Return the space, ready to propose from."""
        return Space.parse(self.space, epochs=self.max_epochs)

    def baseline_configurations(self) -> dict[str, Configuration]:
        """Return the baselines' configurations by name, at this study's number of epochs."""
        return {name: BASELINES[name].configuration(self.max_epochs) for name in self.baselines}
