"""What comes after a rehearsed search: the race of the finalists, and the retraining."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

from search.config.sections import FinalSection

_ROUNDS_TOGETHER = 2  # they are trained without a judgement between them
_STAYS = 0.5
"""Share of finalists that stay after a round, and probability that a race goes on: rounded from
races on tables of learning curves (benchmarks/selection.py)."""


def race_seconds(
    final: FinalSection,
    finalists: Sequence[float],
    baselines: Sequence[float],
    *,
    epochs: int,
    slots: int,
    worker: float,
    dice: random.Random,
) -> float:
    """Return what the race takes.

    Args:
        final: How many are raced, and how often at most.
        finalists: Seconds an epoch of the best trials, the best first.
        baselines: Those of the baselines.
        epochs: Of each training.
        slots: Processes that train at a time.
        worker: Seconds until one has started; every group of trainings starts its own.
        dice: Decides who leaves.
    """
    if not final.finalists:
        return 0.0
    alive = list(finalists[: final.finalists])
    entered = alive + (list(baselines) if final.race_baselines else [])
    total = side_by_side([s * epochs for s in entered * _ROUNDS_TOGETHER], slots, worker)
    for _ in range(_ROUNDS_TOGETHER, final.rounds):
        alive = [seconds for seconds in alive if dice.random() < _STAYS]
        if len(alive) < 2 or dice.random() > _STAYS:
            break
        total += side_by_side([s * epochs for s in alive], slots, worker)
    return total


def retrain_seconds(
    final: FinalSection,
    winner: float,
    baselines: Sequence[float],
    *,
    epochs: int,
    slots: int,
    worker: float,
) -> float:
    """Return what the retraining takes; arguments as in `race_seconds`."""
    jobs = [winner] * final.seeds
    for baseline in baselines:
        jobs += [baseline] * final.baseline_seeds
    return side_by_side([seconds * epochs for seconds in jobs], slots, worker)


def side_by_side(jobs: Sequence[float], slots: int, worker: float) -> float:
    """Return when the last of some jobs (seconds) is done, in their order on so many processes."""
    if not jobs:
        return 0.0
    workers = [worker] * min(slots, len(jobs))
    for seconds in jobs:  # the next one goes to the process that is free first
        heapq.heapreplace(workers, workers[0] + seconds)
    return max(workers)
