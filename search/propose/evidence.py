"""What the trials of a study say, as the model takes it: values on one scale, with their noise."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.propose.fidelity import compress_lower_half, to_one_scale

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How the sampler works; chosen on tables of learning curves (see benchmarks/README.md)."""

    most_observations: int = 200
    """Half of them the best ones, the others at random: the cost of a proposal is bounded."""
    most_untrainable: int = 40
    random_share: float = 0.2
    """Share of proposals drawn anywhere, so that no model can be wrong for ever."""
    stale_share: float = 0.3
    """What this share grows by, at most, while no better trial comes."""
    patience: int = 100
    """Trials without a better one after which half of that has been added."""
    candidates: int = 500
    parents: int = 10
    """Best trials near which half of the candidates are drawn."""
    step: float = 0.15
    """Standard deviation of such a step, in length scales."""
    climb: int = 8
    """Steps of the hyperparameters' climb, each proposal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Observations of some trials; higher is better."""

    numbers: list[int]
    """(n,) the trials, untrainable ones last."""
    values: Vector
    """(n,) on the scale of the highest level reached."""
    variances: Vector
    """(n,) how little a value from a lower level says about that one."""
    level: int
    """Index of that level."""
    untrainable: int
    """Trials among them that count as the worst there is."""


def curve_of(values: Mapping[int, float], levels: Sequence[int], sign: float) -> dict[int, float]:
    """Return index of a level -> best value by then, for the levels that a trial has reached.

    Values that are not finite are left out, and so are levels before the first that is.

    Args:
        values: Epoch -> value.
        levels: Epochs, rising.
        sign: -1 where lower values are better.
    """
    curve: dict[int, float] = {}
    steps = sorted(step for step, value in values.items() if math.isfinite(value))
    best, reached = -math.inf, 0
    for index, level in enumerate(levels):
        if not steps or level > steps[-1]:
            break
        while reached < len(steps) and steps[reached] <= level:
            best = max(best, sign * values[steps[reached]])
            reached += 1
        if reached:
            curve[index] = best
    return curve


def gather(
    curves: Mapping[int, Mapping[int, float]],
    untrainable: Sequence[int],
    *,
    most: int,
    most_untrainable: int,
    rng: random.Random,
) -> Evidence:
    """Bring all trials to one scale, and choose those the model is built on.

    Args:
        curves: Trial -> index of a level -> value; at least one.
        untrainable: Trials whose loss was not finite, or that do not fit into memory.
        most: Observations to keep: half of them the best ones, the others at random.
        most_untrainable: How many of those to keep: the last ones.
        rng: Chooses.
    """
    numbers = list(curves)
    scaled = compress_lower_half(to_one_scale(list(curves.values())))
    rows = list(range(len(numbers)))
    if len(rows) > most:
        rows.sort(key=lambda row: -scaled.values[row])
        rows = rows[: most // 2] + rng.sample(rows[most // 2 :], most - most // 2)
    worst, lost = float(scaled.values.min()), list(untrainable)[-most_untrainable:]
    return Evidence(
        numbers=[numbers[row] for row in rows] + lost,
        values=np.append(scaled.values[rows], [worst] * len(lost)),
        variances=np.append(scaled.variances[rows], [0.0] * len(lost)),
        level=scaled.level,
        untrainable=len(lost),
    )


def trials_since_best(best: Sequence[float]) -> int:
    """Return how many trials have come since the best one; `best` holds each one's best value."""
    return len(best) - 1 - max(range(len(best)), key=lambda index: (best[index], index))
