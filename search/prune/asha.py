"""Asynchronous successive halving: decide from values alone, no Ray, no training.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934. Their r is
`grace_epochs`, R is `max_epochs`, eta is `reduction_factor`. Higher values are better.

What is decided depends only on the calls made so far, in their order: a new process that makes them
again stands where the old one stood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from search.prune.ladder import Decision, Ladder, rung_epochs
from search.prune.pasha import Pasha
from search.seeds import derive_seed
from search.words import plural

Form = Literal["stopping", "promotion"]
LAST_STRETCH = "yet it goes on: no new trial could come to its end"
"""How the reason of a promotion ends that the end of the budget gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaRules:
    """The parameters of successive halving, all settled."""

    grace_epochs: int
    """r: the first rung."""
    reduction_factor: int
    """eta: about one trial in eta goes on past each rung."""
    max_epochs: int
    """R: who gets there is complete; 0 switches all rungs off."""
    min_competitors: int
    """A trial is judged only against at least this many others."""
    form: Form = "promotion"
    """`stopping`: a weak trial ends at its rung. `promotion`: every trial pauses at its rung and
    goes on from its checkpoint when it belongs to the best there."""
    brackets: int = 1
    """Bracket s has its first rung at r eta^s, and competes with itself only."""
    grow: bool = False
    """PASHA: R is reached only while rankings still change; needs the promotion form."""
    audit_share: float = 0.0
    """Share of the trials to be stopped, or paused, that run on, to learn what stopping costs."""
    seed: int = 0


class Asha:
    """The rungs of one study and the rule that stops, pauses and promotes trials at them."""

    def __init__(self, rules: AshaRules) -> None:
        self._rules = rules
        rungs = rung_epochs(
            grace_epochs=rules.grace_epochs,
            reduction_factor=rules.reduction_factor,
            max_epochs=rules.max_epochs,
        )
        # A bracket without a rung would train everything to the end.
        count = max(1, min(rules.brackets, len(rungs)))
        self._ladders = [
            Ladder(
                rungs[skip:],
                eta=rules.reduction_factor,
                min_competitors=rules.min_competitors,
                bracket=skip,
            )
            for skip in range(count)
        ]
        self._growing = [
            Pasha([*ladder.rungs, rules.max_epochs]) if rules.grow and ladder.rungs else None
            for ladder in self._ladders
        ]
        self._paused: dict[int, int] = {}
        """Trial -> the rung it waits at."""
        self._audited: set[int] = set()

    @property
    def paused(self) -> dict[int, int]:
        """Return the trials that wait for promotion, each with its rung in epochs."""
        return dict(self._paused)

    @property
    def has_paused(self) -> bool:
        """Whether a trial waits for promotion."""
        return bool(self._paused)

    def rungs(self, bracket: int = 0) -> dict[int, dict[int, float]]:
        """Return rung -> trial -> best value when it got there, in order of arrival."""
        return self._ladders[bracket].rungs

    def bracket_of(self, trial: int) -> int:
        """Return the bracket of a trial: a seeded draw with Hyperband's shares.

        A bracket that halves s times gets a share in proportion to eta^s / (s + 1): about the
        same number of epochs for each (Li et al., JMLR 18(185), 2018, algorithm 1).
        """
        halvings = [len(ladder.rungs) for ladder in self._ladders]
        shares = [self._rules.reduction_factor**s / (s + 1) for s in halvings]
        point = derive_seed(self._rules.seed, "bracket", trial) / 2**31 * sum(shares)
        for bracket, share in enumerate(shares):
            point -= share
            if point < 0:
                return bracket
        return len(shares) - 1

    def decide(self, trial: int, epoch: int, value: float) -> Decision | None:
        """Record a trial's best value at `epoch` and decide.

        Returns None where there is nothing to record: before the first rung, and between rungs
        when the trial goes on.

        Raises:
            ValueError: The value is not finite: such a trial is infeasible, not slow.
        """
        if not math.isfinite(value):
            raise ValueError(f"the value of trial {trial} at epoch {epoch} is {value}")
        bracket = self.bracket_of(trial)
        ladder, growing = self._ladders[bracket], self._growing[bracket]
        if growing is not None and trial not in self._audited:
            growing.note(trial, epoch, value)
        if trial in self._audited or epoch >= self._rules.max_epochs:
            # An audited trial takes no part in later rungs: they decide as if it had ended.
            return None
        if self._rules.form == "promotion":
            if epoch not in ladder.rungs:
                return None
            self.end(trial)  # it did not wait after all
            ladder.arrive(trial, epoch, value)
            return self._pause_or_go(trial, epoch, ladder, growing)
        if epoch in ladder.rungs:
            ladder.arrive(trial, epoch, value)
        rung = ladder.last_passed(trial, epoch)
        if rung is None:
            return None
        decision = ladder.judge(trial, rung)
        if decision.action == "stop" and self._is_drawn_for_audit(trial):
            self._audited.add(trial)
            reason = f"{decision.reason}; runs on all the same, for the audit"
            return replace(decision, action="audit", reason=reason)
        return decision if epoch in ladder.rungs or decision.action == "stop" else None

    def next_promotion(self, *, last_stretch: bool = False) -> Decision | None:
        """Choose the paused trial that may go on now, from the highest rung down; None for none.

        In the `last_stretch` no new trial could come to its end: then the best at the highest rung
        goes on, whether it belongs to the best there or not.
        """
        if last_stretch:
            return self._next_to_finish()
        for bracket, ladder in enumerate(self._ladders):
            for rung in sorted(ladder.rungs, reverse=True):
                if not self._may_pass(bracket, rung):
                    continue
                decision = ladder.promotable(rung)
                if decision is not None:
                    return decision
        return None

    def promote(self, trial: int) -> None:
        """Let a paused trial go on."""
        rung = self._paused.pop(trial)
        ladder = self._ladders[self.bracket_of(trial)]
        ladder.wait_no_more(trial, rung)
        ladder.promoted[rung].add(trial)

    def end(self, trial: int) -> None:
        """Note that a trial has ended: it is not promoted any more; its values stay."""
        if (rung := self._paused.pop(trial, None)) is not None:
            self._ladders[self.bracket_of(trial)].wait_no_more(trial, rung)

    def standing(self, trial: int) -> str:
        """Return how a paused trial stands at its rung, as a reason to end it."""
        rung = self._paused[trial]
        ladder = self._ladders[self.bracket_of(trial)]
        place = f"rank {ladder.rank(trial, rung)} of {len(ladder.rungs[rung])}"
        return f"never promoted: {place} at the rung of {plural(rung, 'epoch')}"

    def _next_to_finish(self) -> Decision | None:
        waiting = [
            (-rung, *best)
            for bracket, ladder in enumerate(self._ladders)
            for rung in ladder.rungs
            if self._may_pass(bracket, rung) and (best := ladder.best_waiting(rung))
        ]
        if not waiting:
            return None
        rung, trial = -min(waiting)[0], min(waiting)[2]
        held = self._ladders[self.bracket_of(trial)].hold(trial, rung)
        return replace(held, action="promote", reason=f"{held.reason}; {LAST_STRETCH}")

    def _pause_or_go(
        self, trial: int, rung: int, ladder: Ladder, growing: Pasha | None
    ) -> Decision:
        if trial in ladder.promoted[rung]:  # trained again, from an older checkpoint
            return replace(ladder.judge(trial, rung), action="continue", reason="promoted before")
        decision = None
        if self._may_pass(ladder.bracket, rung):
            decision = ladder.promotable(rung, trial)
        if decision is not None:
            ladder.promoted[rung].add(trial)
            return replace(decision, action="continue")
        judged = ladder.hold(trial, rung)
        if self._is_drawn_for_audit(trial):
            self._audited.add(trial)
            reason = f"{judged.reason}; goes on without waiting, for the audit"
            return replace(judged, action="audit", reason=reason)
        self._paused[trial] = rung
        ladder.wait(trial, rung)
        why = "waits for promotion"
        if growing is not None and rung >= growing.ceiling:
            why = f"waits: no ranking has changed up to {plural(growing.ceiling, 'epoch')}"
        return replace(judged, action="pause", reason=f"{judged.reason}; {why}")

    def _may_pass(self, bracket: int, rung: int) -> bool:
        growing = self._growing[bracket]
        return growing is None or rung < growing.ceiling

    def _is_drawn_for_audit(self, trial: int) -> bool:
        share = self._rules.audit_share
        return derive_seed(self._rules.seed, "audit", trial) / 2**31 < share
