"""The rungs of one bracket: who got there, with which value, and who belongs to the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

    def arrive(self, trial: int, rung: int, value: float) -> None:
        """Record a trial's best value at a rung."""
        # Replaced, not added: a trial that went on from an older checkpoint counts once.
        self.rungs[rung].pop(trial, None)
        self.rungs[rung][trial] = value

    def last_passed(self, trial: int, epoch: int) -> int | None:
        """Return the highest rung that a trial has a value at by `epoch`, or None."""
        passed = [rung for rung, values in self.rungs.items() if rung <= epoch and trial in values]
        return max(passed, default=None)

    def judge(self, trial: int, rung: int) -> Decision:
        """Say whether a trial goes on from a rung in the stopping form."""
        values = sorted(self.rungs[rung].values(), reverse=True)
        others, at = len(values) - 1, f"at the rung of {plural(rung, 'epoch')}"
        cutoff = None
        if others < self._min_competitors:
            few = f"only {plural(others, 'other')}" if others else "no other"
            reason = f"{few} {at}, {self._min_competitors} are needed to stop a trial"
        else:
            keep = math.ceil(len(values) / self._eta)
            cutoff = values[keep - 1]
            go_on = "only the best goes on" if keep == 1 else f"the best {keep} go on"
            reason = f"rank {self._rank(trial, rung)} of {len(values)} {at}; {go_on}"
        goes_on = cutoff is None or self.rungs[rung][trial] >= cutoff
        return self._decision(trial, rung, "continue" if goes_on else "stop", cutoff, reason)

    def promotable(self, rung: int, *, among: Iterable[int]) -> Decision | None:
        """Return the best of some trials that may go on from a rung by promotion, or None.

        The best floor(n / eta) of the n values may, each once; of equal values the earlier trial.
        """
        values, keep = self.rungs[rung], self._num_promoted(rung)
        if keep == 0:
            return None
        ranked = sorted(values, key=lambda t: (-values[t], t))
        wanted = set(among)
        for trial in ranked[:keep]:
            if trial in wanted and trial not in self.promoted[rung]:
                return self._standing(trial, rung, "promote")
        return None

    def hold(self, trial: int, rung: int) -> Decision:
        """Let a trial wait at a rung: it does not belong to those that may go on."""
        return self._standing(trial, rung, "pause")

    def _standing(self, trial: int, rung: int, action: Action) -> Decision:
        """Return how a trial stands by the rule of promotion."""
        values, keep = self.rungs[rung], self._num_promoted(rung)
        at = f"of {len(values)} at the rung of {plural(rung, 'epoch')}"
        reason, cutoff = f"rank {self._rank(trial, rung)} {at}", None
        if keep == 0:
            reason += f"; the first goes on when {self._first_promotion()} are there"
        else:
            cutoff = sorted(values.values(), reverse=True)[keep - 1]
            reason += "; only the best goes on" if keep == 1 else f"; the best {keep} go on"
        return self._decision(trial, rung, action, cutoff, reason)

    def _num_promoted(self, rung: int) -> int:
        count = len(self.rungs[rung])
        return count // self._eta if count >= self._first_promotion() else 0

    def _first_promotion(self) -> int:
        return max(self._eta, self._min_competitors + 1)

    def _rank(self, trial: int, rung: int) -> int:
        values = self.rungs[rung]
        return 1 + sum(other > values[trial] for other in values.values())

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
            rank=self._rank(trial, rung),
            competitors=len(self.rungs[rung]) - 1,
            reason=reason,
        )
