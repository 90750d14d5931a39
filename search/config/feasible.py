"""What a point of a study's space stands for, and whether it may be tried. No Optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.images import ImageShape
from model.config import Configuration
from model.geometry import network_cost
from search.config.config import StudyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Realised:
    """What the values of a point stand for."""

    configuration: dict[str, Any] | None
    """JSON-plain; None where they make no network."""
    key: str
    """Equal for equal configurations."""
    refusal: str
    """Why it cannot be tried, or empty."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else to note on the trial."""


Realise = Callable[[Mapping[str, Any]], Realised]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A trial that is not the sampler's: a baseline, or the user's own point."""

    origin: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that are fixed; the sampler proposes the others."""
    realised: Realised | None = None
    """The whole configuration, for one outside the space; then there are no parameters."""


def realiser(config: StudyConfig, shape: ImageShape) -> Realise:
    """Return a function that turns values of the space's parameters into a configuration."""
    space = config.search_space()

    def realise(values: Mapping[str, Any]) -> Realised:
        try:
            configuration = space.configuration(values)
        except ValueError as error:
            return Realised(configuration=None, key="", refusal=str(error))
        return _realised(configuration, config, shape)

    return realise


def given_trials(config: StudyConfig, shape: ImageShape) -> list[Given]:
    """Return the trials that come before the sampler's: the baselines, then the user's points."""
    # Baselines have no parameters: they lie outside the space, and what is not in it must not draw
    # the sampler towards its edge.
    baselines = [
        Given(origin=f"baseline {name}", realised=_realised(configuration, config, shape))
        for name, configuration in config.baseline_configurations().items()
    ]
    points = [
        Given(origin=f"point {index}", values=point)
        for index, point in enumerate(config.points, start=1)
    ]
    return baselines + points


def given_again(
    number: int,
    values: Mapping[str, Any],
    configuration: Mapping[str, Any],
    config: StudyConfig,
    shape: ImageShape,
) -> Given:
    """Return a trial of before at the study's present length of training.

    Args:
        number: Of that trial.
        values: Its parameters; none for a baseline, which lies outside the space.
        configuration: What it trained.
        config: The study's settings now.
        shape: Of the images.
    """
    origin = f"t{number:04d} again, for longer"
    if values:
        return Given(origin=origin, values=values)
    old = Configuration.from_dict(configuration)
    longer = replace(old, training=replace(old.training, epochs=config.max_epochs))
    return Given(origin=origin, realised=_realised(longer, config, shape))


def _realised(configuration: Configuration, config: StudyConfig, shape: ImageShape) -> Realised:
    plain, key = configuration.to_dict(), configuration.key()
    try:
        cost = network_cost(configuration.network, shape)
    except ValueError as error:
        return Realised(configuration=plain, key=key, refusal=str(error))
    return Realised(
        configuration=plain,
        key=key,
        refusal=config.limits.refuse(cost.parameters, cost.multiply_adds),
        facts={"parameters": cost.parameters, "multiply_adds": cost.multiply_adds},
    )
