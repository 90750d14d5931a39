"""The rungs of one bracket: who got there, with which value, and who belongs to the best."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from search.words import plural

Action = Literal["continue", "stop", "pause", "promote", "audit"]
"""`pause`: the worker is free, the trial may be promoted later. `audit`: would be stopped, but runs
on to measure what stopping costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about a trial at one rung, and on what grounds."""

    trial: int
    action: Action
    bracket: int
    rung: int
    """The rung's number of epochs."""
    value: float
    """The trial's best value when it got to the rung."""
    cutoff: float | None
    """The lowest value that goes on; None where nothing was compared."""
    rank: int
    """1 for the best value at the rung so far, this trial included."""
    competitors: int
    """Other trials with a value at the rung."""
    reason: str


def rung_epochs(*, grace_epochs: int, reduction_factor: int, max_epochs: int) -> list[int]:
    """Return the rungs r, r eta, r eta^2, ... below R, in epochs.

    R itself is no rung: a trial that gets there is complete.
    """
    rungs = []
    rung = grace_epochs
    while rung < max_epochs:
        rungs.append(rung)
        rung *= reduction_factor
    return rungs


class Ladder:
    """One bracket.

    At a rung with n values, a trial goes on if its value is among the best ceil(n / eta), ties
    included, or if fewer than `min_competitors` others are there. Early comers meet few others, so
    a trial is judged again after every later epoch, still by its value at the rung it passed last:
    what came after it may have shown that it should not have gone on. Promotion is stricter: the
    best floor(n / eta) go on, once enough others are there.
    """

    def __init__(
        self, rungs: Sequence[int], *, eta: int, min_competitors: int, bracket: int
    ) -> None:
        self._eta = eta
        self._min_competitors = min_competitors
        self.bracket = bracket
        self.rungs: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
        """Epoch of the rung -> trial -> best value when it got there, in order of arrival."""
        self.promoted: dict[int, set[int]] = {rung: set() for rung in rungs}
        """Epoch of the rung -> trials that went on from it, in the promotion form."""
        # (-value, trial), the best first: nothing here takes longer with every trial.
        self._ranked: dict[int, list[tuple[float, int]]] = {rung: [] for rung in rungs}
        self._waiting: dict[int, list[tuple[float, int]]] = {rung: [] for rung in rungs}

    def arrive(self, trial: int, rung: int, value: float) -> None:
        """Record a trial's best value at a rung."""
        values, ranked = self.rungs[rung], self._ranked[rung]
        # Replaced, not added: a trial that went on from an older checkpoint counts once.
        if (before := values.pop(trial, None)) is not None:
            del ranked[bisect_left(ranked, (-before, trial))]
        values[trial] = value
        insort(ranked, (-value, trial))

    def wait(self, trial: int, rung: int) -> None:
        """Let a trial wait for its promotion from a rung."""
        insort(self._waiting[rung], (-self.rungs[rung][trial], trial))

    def wait_no_more(self, trial: int, rung: int) -> None:
        """Let a trial wait no longer: it goes on, or has ended."""
        waiting = self._waiting[rung]
        del waiting[bisect_left(waiting, (-self.rungs[rung][trial], trial))]

    def best_waiting(self, rung: int) -> tuple[float, int] | None:
        """Return the best of those that wait at a rung: its value, negative, and the trial."""
        return next(iter(self._waiting[rung]), None)

    def last_passed(self, trial: int, epoch: int) -> int | None:
        """Return the highest rung that a trial has a value at by `epoch`, or None."""
        passed = [rung for rung, values in self.rungs.items() if rung <= epoch and trial in values]
        return max(passed, default=None)

    def judge(self, trial: int, rung: int) -> Decision:
        """Say whether a trial goes on from a rung in the stopping form."""
        values = self._ranked[rung]
        others, at = len(values) - 1, f"at the rung of {plural(rung, 'epoch')}"
        cutoff = None
        if others < self._min_competitors:
            few = f"only {plural(others, 'other')}" if others else "no other"
            reason = f"{few} {at}, {self._min_competitors} are needed to stop a trial"
        else:
            keep = math.ceil(len(values) / self._eta)
            cutoff = -values[keep - 1][0]
            go_on = "only the best goes on" if keep == 1 else f"the best {keep} go on"
            reason = f"rank {self.rank(trial, rung)} of {len(values)} {at}; {go_on}"
        goes_on = cutoff is None or self.rungs[rung][trial] >= cutoff
        return self._decision(trial, rung, "continue" if goes_on else "stop", cutoff, reason)

    def promotable(self, rung: int, trial: int | None = None) -> Decision | None:
        """Return the promotion of a trial, by default the best that waits, or None.

        The best floor(n / eta) of the n values may go on; of equal values the earlier trial.
        """
        if trial is None:
            best = self.best_waiting(rung)
            if best is None:
                return None
            trial = best[1]
        place = bisect_left(self._ranked[rung], (-self.rungs[rung][trial], trial))
        may = place < self._num_promoted(rung)
        return self._standing(trial, rung, "promote") if may else None

    def hold(self, trial: int, rung: int) -> Decision:
        """Let a trial wait at a rung: it does not belong to those that may go on."""
        return self._standing(trial, rung, "pause")

    def _standing(self, trial: int, rung: int, action: Action) -> Decision:
        """Return how a trial stands by the rule of promotion."""
        values, keep = self.rungs[rung], self._num_promoted(rung)
        at = f"of {len(values)} at the rung of {plural(rung, 'epoch')}"
        reason, cutoff = f"rank {self.rank(trial, rung)} {at}", None
        if keep == 0:
            reason += f"; the first goes on when {self._first_promotion()} are there"
        else:
            cutoff = -self._ranked[rung][keep - 1][0]
            reason += "; only the best goes on" if keep == 1 else f"; the best {keep} go on"
        return self._decision(trial, rung, action, cutoff, reason)

    def _num_promoted(self, rung: int) -> int:
        count = len(self.rungs[rung])
        return count // self._eta if count >= self._first_promotion() else 0

    def _first_promotion(self) -> int:
        return max(self._eta, self._min_competitors + 1)

    def rank(self, trial: int, rung: int) -> int:
        """Return a trial's place at a rung: 1 more than there are better values."""
        return 1 + bisect_left(self._ranked[rung], (-self.rungs[rung][trial], -1))

    def _decision(
        self, trial: int, rung: int, action: Action, cutoff: float | None, reason: str
    ) -> Decision:
        return Decision(
            trial=trial,
            action=action,
            bracket=self.bracket,
            rung=rung,
            value=self.rungs[rung][trial],
            cutoff=cutoff,
            rank=self.rank(trial, rung),
            competitors=len(self.rungs[rung]) - 1,
            reason=reason,
        )
