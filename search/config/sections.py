"""The parts of a study file that say what a study may use: limits, machines, disk, and its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from search.config.store_url import parse_store_url

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the study file: unknown keys are refused, values never change after checking."""

    # Strict: `max_epochs: true` is a mistake, not 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    """GPU share of one trial; `auto`: 0 without a GPU, else by the memory that the largest network
    of the space takes there, as measured."""
    max_concurrent: Positive | Literal["auto"] = "auto"
    """Trials at a time; `auto`: as many as the CPUs and GPUs hold."""
    cpu_nodes: bool = True
    """On a cluster whose trials use GPUs: whether nodes without one train trials too, slower."""
    hang_seconds: float | Literal["auto"] = "auto"
    """A worker that has finished no epoch for so long is taken for hung and ended; `auto`: 20 times
    what a probe and the epochs so far let expect, two minutes at least."""

    @field_validator("hang_seconds")
    @classmethod
    def _is_a_time(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value <= 0:
            raise ValueError(f"{value:g} is no number of seconds above 0")
        return value

    @field_validator("gpus_per_trial")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not (0 <= value <= 1 or value == int(value) > 0):
            raise ValueError(f"{value:g} is no share from 0 to 1, nor a whole number of GPUs")
        return value


class CheckpointsSection(Section):
    """Which networks of the search are kept, and where. Trials that go on keep theirs anyway."""

    url: str | None = None
    """`s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX` to keep them in an object store, below the name
    of the study; null for the study's folder. Who may enter it is for the environment to say."""
    keep_best: int = Field(default=3, ge=0)
    """Best trials that have ended whose network is kept, as it was at its best epoch."""
    max_gb: float | None = Field(default=5.0, gt=0)
    """GB (10^9 bytes) of all checkpoints of the study; null for no limit. Over it, the least useful
    are deleted first, those of running trials never."""

    @field_validator("url")
    @classmethod
    def _is_in_a_store(cls, url: str | None) -> str | None:
        if url is not None:
            parse_store_url(url)
        return url


class FinalSection(Section):
    """What happens after the search."""

    finalists: Annotated[int, Field(ge=0)] = 4
    """Best configurations that are trained again, with the baselines, on redrawn splits before one
    is chosen; 0: the search's best is chosen as it is."""
    rounds: Annotated[int, Field(ge=2)] = 5
    """Splits and seeds with which a finalist is trained at most; the hopeless leave after two,
    and the race ends as soon as going on would not matter."""
    race_baselines: bool = True
    """Whether the baselines are raced too."""
    seeds: Positive = 3
    """Fresh seeds with which the chosen configuration is retrained on all training data."""
    baseline_seeds: int = Field(default=1, ge=0)
    """Fresh seeds for each baseline; 0 leaves the baselines out."""
    ensemble: bool = True
    """Also measure the mean answer of all the winner's seeds, and that of an image and its mirror
    image: rows of their own, never the winner's."""
    export: bool = True
