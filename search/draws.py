"""Configurations drawn from a study's space at random, as its first trials are. No Optuna."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.images import ImageShape
from model.config import Configuration
from model.geometry import network_cost
from search.config import LimitsSection, StudyConfig
from search.space import Space

_MOST_DRAWS = 2000  # about as many as the driver makes before it gives up
_MOST_DRAWS_A_POINT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What the space yields, and what runs before anything is drawn from it."""

    first: dict[str, Configuration]
    """Baselines and points by name, as far as they are not refused; these trials come first."""
    refused_first: dict[str, str]
    """Baselines and points that are refused, and why."""
    drawn: tuple[Configuration, ...]
    """Configurations that make a network within the limits; none where no draw does."""
    num_draws: int
    refusal: str
    """Why the last refused draw was refused; empty where none was."""

    @property
    def refused_share(self) -> float:
        """Return the share of draws that make no network, or one over the limits."""
        return 1 - len(self.drawn) / self.num_draws


def draw_configurations(config: StudyConfig, shape: ImageShape, *, count: int) -> Draws:
    """Draw until `count` configurations are accepted; the study's seed decides which."""
    space, limits, dice = config.search_space(), config.limits, random.Random(config.seed)
    first: dict[str, Configuration] = {}
    refused: dict[str, str] = {}
    for name, configuration in config.baseline_configurations().items():
        if reason := refuse(configuration, limits, shape):
            refused[f"baseline {name}"] = reason
        else:
            first[name] = configuration
    for number, point in enumerate(config.points, start=1):
        drawn, _, reason = _draw(space, limits, shape, _Dice(dice, point), 1, _MOST_DRAWS_A_POINT)
        if drawn:
            first[f"point {number}"] = drawn[0]
        else:
            refused[f"point {number}"] = reason
    drawn, num_draws, reason = _draw(space, limits, shape, _Dice(dice, {}), count, _MOST_DRAWS)
    return Draws(
        first=first,
        refused_first=refused,
        drawn=tuple(drawn),
        num_draws=num_draws,
        refusal=reason,
    )


def refuse(configuration: Configuration, limits: LimitsSection, shape: ImageShape) -> str:
    """Return why a configuration is not trained in a study, or an empty string."""
    try:
        cost = network_cost(configuration.network, shape)
    except ValueError as error:
        return str(error)
    return limits.refuse(cost.parameters, cost.multiply_adds)


def _draw(
    space: Space, limits: LimitsSection, shape: ImageShape, dice: _Dice, count: int, most: int
) -> tuple[list[Configuration], int, str]:
    """Return what was accepted, the number of draws, and the reason of the last refusal."""
    accepted: list[Configuration] = []
    num_draws, refusal = 0, ""
    while len(accepted) < count and num_draws < most:
        num_draws += 1
        try:
            configuration = space.configuration(space.suggest(dice))
        except ValueError as error:
            refusal = str(error)
            continue
        if reason := refuse(configuration, limits, shape):
            refusal = reason
        else:
            accepted.append(configuration)
    return accepted, num_draws, refusal


class _Dice:
    """A suggester that draws evenly on each parameter's own scale, as Optuna's random sampler."""

    def __init__(self, dice: random.Random, fixed: Mapping[str, Any]) -> None:
        self._dice = dice
        self._fixed = fixed

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if name in self._fixed:
            return int(self._fixed[name])
        if log:
            # Each whole number has the room up to half way to its neighbours.
            return round(self._between(math.log(low - 0.49), math.log(high + 0.49), log=True))
        return self._dice.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._fixed:
            return float(self._fixed[name])
        if step is not None:
            return low + step * self._dice.randrange(round((high - low) / step) + 1)
        if log:
            return self._between(math.log(low), math.log(high), log=True)
        return self._between(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._fixed[name] if name in self._fixed else self._dice.choice(choices)

    def _between(self, low: float, high: float, *, log: bool = False) -> float:
        value = self._dice.uniform(low, high)
        return math.exp(value) if log else value
