"""How long a search will still take, from how long its trials took so far."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.record.view import BASELINE, View

if TYPE_CHECKING:
    from search.record.study import Trial

_FEWEST_ENDED = 5  # trials that must have ended before anything is told by them
_DRAWS = 100
_POOL = 200


def seconds_left(view: View, now: float) -> tuple[float, float] | None:
    """Return a likely range of the seconds left; None where it cannot be told.

    Trials to come are taken to be like those so far; of several limits the first to be met
    counts.
    """
    budget, num_slots = view.study.config.budget, len(view.slots)
    busy = [view.trials[number] for number in view.slots if number is not None]
    ranges: list[tuple[float, float]] = []
    if budget.seconds is not None:
        left = max(0.0, budget.seconds - view.seconds(now))
        # Each running trial ends its epoch.
        ranges.append((left, left + max((_last_seconds(t) for t in busy), default=0.0)))
    if budget.device_hours is not None and num_slots:
        (use,) = (use for use in view.budget(now) if use.limit == "device_hours")
        left = (1 - use.share) * budget.device_hours * 3600 / (view.share * num_slots)
        ranges.append((left, left + max((_last_seconds(t) for t in busy), default=0.0)))
    trials = [trial for trial in view.trials.values() if trial.epochs]
    over = [trial for trial in trials if trial.outcome != "running"]
    # Baselines say little about the epochs of other networks.
    ours = [trial for trial in trials if not trial.origin.startswith(BASELINE)]
    trained = sum(map(_seconds, trials))
    if len(over) >= _FEWEST_ENDED and ours and trained and view.slots:
        # Slots also wait, between epochs and between trials: as much as they did so far.
        delay = max(1.0, view.seconds(now) * num_slots / trained)
        if budget.trials is not None:
            new = max(0, budget.trials - view.num_asked)
            pool, spent = [*map(_seconds, over)], [*map(_seconds, busy)]
            low, high = forecast_trials(pool, spent, new, num_slots)
            ranges.append((low * delay, high * delay))
        if budget.epochs is not None:
            new = max(0, budget.epochs - view.num_epochs) + num_slots - 1
            costs = [(len(trial.epochs), _seconds(trial)) for trial in ours]
            low, high = forecast_epochs(costs, new)
            ranges.append((low * delay / num_slots, high * delay / num_slots))
    return (min(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None


def forecast_trials(
    pool: Sequence[float], busy: Sequence[float], new: int, slots: int
) -> tuple[float, float]:
    """Return a likely range of the seconds until all trials have ended.

    Trials are put on the first free slot, a hundred times over, with durations drawn from a
    resampled `pool`: so a small pool widens the range, from the 5 % to the 95 % quantile. That a
    sampler moves towards slower networks is not in it: in simulations, 7 to 9 of 10 ranges held.
    Equal states have equal forecasts.

    Args:
        pool: Seconds that earlier trials took.
        busy: Seconds that each running trial has taken so far.
        new: Trials not yet handed out.
        slots: Trials at a time.
    """
    pool = pool[-_POOL:]
    draw = random.Random(0)
    even = max(0, new - _POOL)  # many trials fill the slots evenly: only the rest is placed
    ends = []
    for _ in range(_DRAWS):
        sample = draw.choices(pool, k=len(pool))
        free = [0.0] * slots
        for slot, seconds in enumerate(busy):
            rest = [value - seconds for value in sample if value > seconds]
            free[slot] = draw.choice(rest) if rest else 0.0
        heapq.heapify(free)
        for seconds in draw.choices(sample, k=new - even):
            heapq.heapreplace(free, free[0] + seconds)
        ends.append(max(free) + even / slots * sum(sample) / len(sample))
    return _range(ends)


def forecast_epochs(pool: Sequence[tuple[int, float]], new: int) -> tuple[float, float]:
    """Return a likely range, as above, of the seconds that one slot takes for `new` epochs.

    Whole trials are drawn from a resampled `pool` of (epochs, seconds): a trial's epochs take
    equally long.
    """
    pool = pool[-_POOL:]
    draw = random.Random(0)
    ends = []
    for _ in range(_DRAWS):
        sample = draw.choices(pool, k=len(pool))
        num_trials = min(_POOL, new * len(sample) // sum(epochs for epochs, _ in sample) + 1)
        drawn = draw.choices(sample, k=num_trials)
        ends.append(new * sum(s for _, s in drawn) / sum(epochs for epochs, _ in drawn))
    return _range(ends)


def _range(ends: list[float]) -> tuple[float, float]:
    ends = sorted(ends)
    return ends[_DRAWS // 20], ends[-1 - _DRAWS // 20]


def _seconds(trial: Trial) -> float:
    return sum(row.seconds or 0.0 for row in trial.epochs)


def _last_seconds(trial: Trial) -> float:
    return (trial.epochs[-1].seconds or 0.0) if trial.epochs else 0.0
