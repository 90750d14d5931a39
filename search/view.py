"""What is known of a search while it runs: read from the record, kept up to date by events.

`search.screen` draws it. No heavy imports: a command that shows a study should answer at once.
"""

from __future__ import annotations

import heapq
import math
import platform
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from search.words import data_caution, data_line

if TYPE_CHECKING:
    from model.train import EpochMetrics
    from search.asha import Decision
    from search.study import Outcome, Study, Trial

_BASELINE = "baseline "  # how the origin of a baseline's trial begins
_FEWEST_ENDED = 5  # trials that must have ended before the time left is told
_DRAWS = 100
_POOL = 200


@dataclass(kw_only=True, slots=True)
class View:
    """The trials of a study, and who trains which of them. Drawing it needs no record."""

    study: Study
    trials: dict[int, Trial]
    """Every trial that was handed out or refused, by number."""
    ended: deque[int]
    """The trials that ended last, in order."""
    stopped_at: dict[int, int]
    """Trial -> the rung, in epochs, at which ASHA stopped it."""
    slots: list[int | None]
    """The trial of each slot; None where it is idle."""
    spent: float
    """Seconds searched before `since`."""
    since: float | None
    """Unix time from which the search goes on; None where nobody searches."""
    data: str
    """Which images are used."""
    caution: str
    """What must be known about them before any number; empty where nothing must."""
    train_images: int
    """Images of one epoch."""

    @classmethod
    def of(cls, study: Study) -> View:
        """Read everything from the study's record."""
        record = study.record
        trials = {t.number: t for t in study.trials() if t.outcome != "waiting"}
        attempts = [a for a in record.attempts() if a["trial"] in trials]
        over = [a for a in attempts if trials[a["trial"]].outcome != "running"]
        over.sort(key=lambda attempt: attempt["ended_at"] or 0.0)
        running = {a["trial"] for a in attempts if a["ended_at"] is None} - {
            a["trial"] for a in over
        }
        alive = study.state == "searching" and is_alive(study)
        return cls(
            study=study,
            trials=trials,
            ended=deque((a["trial"] for a in over), maxlen=4),
            stopped_at={d["trial"]: d["rung"] for d in record.decisions() if d["action"] == "stop"},
            slots=[*sorted(running)] if alive else [],
            spent=record.spent_seconds("search"),
            since=record.sessions()[-1]["seen_at"] if alive else None,
            data=data_line(study),
            caution=data_caution(study),
            train_images=(study.noted("data") or {}).get("train_images") or 0,
        )

    def start(self, trial: Trial) -> None:
        """Put a trial that was handed out on the first idle slot."""
        self.trials[trial.number] = trial
        if trial.number in self.slots:
            return  # handed out again: its worker was lost
        if None not in self.slots:
            self.slots.append(None)
        self.slots[self.slots.index(None)] = trial.number

    def add_epoch(
        self, number: int, metrics: EpochMetrics, decision: Decision | None, at: float
    ) -> None:
        """Add an epoch, trained at Unix time `at`, and what was decided on it."""
        from search.record import EpochRow

        values: dict[str, Any] = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(metrics).items()
        }
        trial = self.trials[number]
        rows = {row.epoch: row for row in trial.epochs}
        rows[metrics.epoch] = EpochRow(trial=number, attempt=0, at=at, **values)
        self.trials[number] = replace(trial, epochs=tuple(rows[key] for key in sorted(rows)))
        if decision is not None and decision.action == "stop":
            self.stopped_at[number] = decision.rung

    def end(self, number: int, outcome: Outcome, reason: str) -> None:
        """End a trial and free its slot."""
        self.trials[number] = replace(self.trials[number], outcome=outcome, reason=reason)
        self.ended.append(number)
        self.slots = [None if trial == number else trial for trial in self.slots]

    def best(self) -> Trial | None:
        """Return the best trial so far, as `search.study.best_of` has it."""
        from search.study import best_of

        return best_of(list(self.trials.values()))

    def baselines(self) -> dict[str, Trial]:
        """Return the trials of the baselines by name."""
        found = [t for t in self.trials.values() if t.origin.startswith(_BASELINE)]
        return {trial.origin.removeprefix(_BASELINE): trial for trial in found}

    def seconds(self, now: float) -> float:
        """Return the wall seconds searched, over all sessions, at Unix time `now`."""
        return self.spent + (0.0 if self.since is None else max(0.0, now - self.since))

    @property
    def num_asked(self) -> int:
        """Return the trials that count against the budget: all but those refused untrained."""
        return sum(bool(t.epochs) or t.outcome != "infeasible" for t in self.trials.values())

    @property
    def num_epochs(self) -> int:
        """Return the epochs trained by all trials together."""
        return sum(len(trial.epochs) for trial in self.trials.values())

    def count_outcomes(self) -> str:
        """Return how many trials there are of each kind, such as `2 running, 5 complete`."""
        found = Counter(str(trial.outcome) for trial in self.trials.values())
        busy = sum(slot is not None for slot in self.slots)
        kinds = {"running": busy, "unfinished": found["running"] - busy}
        kinds |= {kind: found[kind] for kind in ("complete", "pruned", "infeasible", "failed")}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)

    def seconds_left(self, now: float) -> tuple[float, float] | None:
        """Return a likely range of the seconds left; None where it cannot be told.

        Trials to come are taken to be like those so far; of several limits the first to be met
        counts.
        """
        budget, num_slots = self.study.config.budget, len(self.slots)
        busy = [self.trials[number] for number in self.slots if number is not None]
        ranges: list[tuple[float, float]] = []
        if budget.seconds is not None:
            left = max(0.0, budget.seconds - self.seconds(now))
            # Each running trial ends its epoch.
            ranges.append((left, left + max((_last_seconds(t) for t in busy), default=0.0)))
        trials = [trial for trial in self.trials.values() if trial.epochs]
        over = [trial for trial in trials if trial.outcome != "running"]
        # Baselines say little about the epochs of other networks.
        ours = [trial for trial in trials if not trial.origin.startswith(_BASELINE)]
        trained = sum(map(_seconds, trials))
        if len(over) >= _FEWEST_ENDED and ours and trained and self.slots:
            # Slots also wait, between epochs and between trials: as much as they did so far.
            delay = max(1.0, self.seconds(now) * num_slots / trained)
            if budget.trials is not None:
                new = max(0, budget.trials - self.num_asked)
                pool, spent = [*map(_seconds, over)], [*map(_seconds, busy)]
                low, high = forecast_trials(pool, spent, new, num_slots)
                ranges.append((low * delay, high * delay))
            if budget.epochs is not None:
                new = max(0, budget.epochs - self.num_epochs) + num_slots - 1
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


def is_alive(study: Study) -> bool:
    """Return whether a driver works on the study, as far as can be told from this machine."""
    import psutil

    sessions = study.record.sessions()
    if not sessions or sessions[-1]["ended_at"] is not None:
        return False
    last = sessions[-1]
    if last["host"] != platform.node():
        return True
    try:  # another process may have been given the same number since
        return bool(psutil.Process(last["pid"]).create_time() <= last["started_at"] + 1)
    except psutil.Error:
        return False


def _seconds(trial: Trial) -> float:
    return sum(row.seconds or 0.0 for row in trial.epochs)


def _last_seconds(trial: Trial) -> float:
    return (trial.epochs[-1].seconds or 0.0) if trial.epochs else 0.0
