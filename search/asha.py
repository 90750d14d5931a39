"""Asynchronous successive halving, stopping form: decide from values alone, no Ray, no training.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934. Their r is
`grace_epochs`, R is `max_epochs`, eta is `reduction_factor`. Higher values are better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from search.words import plural


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about a trial at one rung, and on what grounds."""

    action: Literal["continue", "stop"]
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


class Asha:
    """The rungs of one study and the rule that stops trials at them.

    At a rung with n values, a trial goes on if its value is among the best ceil(n / eta), ties
    included, or if fewer than `min_competitors` others are there. Early comers meet few others, so
    a trial is judged again after every later epoch, still by its value at the rung it passed last:
    what came after it may have shown that it should not have gone on.
    """

    def __init__(
        self, *, grace_epochs: int, reduction_factor: int, max_epochs: int, min_competitors: int
    ) -> None:
        self._eta = reduction_factor
        self._min_competitors = min_competitors
        self.rungs: dict[int, dict[int, float]] = {
            rung: {}
            for rung in rung_epochs(
                grace_epochs=grace_epochs,
                reduction_factor=reduction_factor,
                max_epochs=max_epochs,
            )
        }
        """Epoch of the rung -> trial -> best value when it got there, in order of arrival."""

    def restore(self, trial: int, epoch: int, value: float) -> None:
        """Put a value that was recorded before back into its rung."""
        if epoch in self.rungs:
            self.rungs[epoch][trial] = value

    def decide(self, trial: int, epoch: int, value: float) -> Decision | None:
        """Record a trial's best value at `epoch` and decide.

        Returns None where there is nothing to record: before the first rung, and between rungs
        when the trial goes on.

        Raises:
            ValueError: The value is not finite: such a trial is infeasible, not slow.
        """
        if not math.isfinite(value):
            raise ValueError(f"the value of trial {trial} at epoch {epoch} is {value}")
        if epoch in self.rungs:
            # Replaced, not added: a trial that went on from an older checkpoint counts once.
            self.rungs[epoch].pop(trial, None)
            self.rungs[epoch][trial] = value
        passed = [rung for rung, values in self.rungs.items() if rung <= epoch and trial in values]
        if not passed:
            return None
        decision = self._judge(trial, max(passed))
        return decision if epoch in self.rungs or decision.action == "stop" else None

    def _judge(self, trial: int, rung: int) -> Decision:
        values = sorted(self.rungs[rung].values(), reverse=True)
        value = self.rungs[rung][trial]
        rank = 1 + sum(other > value for other in values)
        others, at = len(values) - 1, f"at the rung of {plural(rung, 'epoch')}"
        cutoff = None
        if others < self._min_competitors:
            reason = f"only {plural(others, 'other')} {at}, {self._min_competitors} are needed"
            reason += " to stop a trial"
        else:
            keep = math.ceil(len(values) / self._eta)
            cutoff = values[keep - 1]
            go_on = "only the best goes on" if keep == 1 else f"the best {keep} go on"
            reason = f"rank {rank} of {len(values)} {at}; {go_on}"
        return Decision(
            action="continue" if cutoff is None or value >= cutoff else "stop",
            rung=rung,
            value=value,
            cutoff=cutoff,
            rank=rank,
            competitors=others,
            reason=reason,
        )
