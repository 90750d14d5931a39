"""What happens next in a study: hand out trials, judge epochs, end trials, keep the budget.

No Ray and no training here: `search.bridge` drives this from Ray Tune, a test or a simulation
drives it by hand. Everything it decides is in the record before it is acted on, and a new driver
starts from the record alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import optuna

from data.images import ImageShape
from model.config import Configuration
from model.train import EpochMetrics
from search.assignment import Assignment, Observer, Verdict
from search.budget import Budget, worth
from search.feasible import given_trials, realiser
from search.ladder import Decision
from search.ledger import Ledger
from search.restore import Ending, ending, restore, score
from search.seeds import derive_seed
from search.strategy import Strategy
from search.study import Study
from search.terminator import RegretBound

_MOST_REFUSALS = 20  # trials in a row; the proposer has drawn many times for each
_MOST_LOSSES = 4  # a lost worker is not the trial's fault; a trial that always loses it may be


@dataclass(kw_only=True, slots=True)
class _Open:
    attempt: int
    epochs: set[int]
    """Epochs trained, over all attempts."""
    remark: str = ""


class Driver:
    """The state of one search."""

    def __init__(
        self,
        study: Study,
        *,
        shape: ImageShape,
        slots: int,
        share: float = 1.0,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Rebuild rungs, budget and trials in flight from the study's record.

        Args:
            study: The study to search.
            shape: Image shape and number of classes, from the data.
            slots: Trials that may be open at a time.
            share: CPUs of one slot, or its GPU share where trials use one.
            observers: Told of every event, in order.
            clock: Seconds that only go forward.
        """
        config = study.config
        self._study, self._slots = study, slots
        self._observers, self._clock = tuple(observers), clock
        # Decisions come from memory; the database is written, and read only to begin with.
        memory = optuna.create_study(direction="maximize")
        self._ledger = Ledger(study.optuna)
        self._strategy = Strategy(
            memory,
            config,
            draw=config.search_space().suggest,
            realise=realiser(config, shape),
            given=given_trials(config, shape),
        )
        self._budget = Budget(config.budget, share=share)
        self._regret = RegretBound(study.optuna, seed=config.seed)
        self._open: dict[int, _Open] = {}
        self._announced: set[int] = set()
        self._lost_in_a_row = 0
        self._stop_reason = ""
        study.record.close_attempts("the driver ended before it")
        self._started = clock() - study.record.spent_seconds("search")
        past = restore(study, self._strategy, self._budget, self._ledger)
        self._in_flight = list(past.in_flight)
        for bound in self._regret.bounds.values():
            self._budget.regret(bound)
        for trial, end in past.untold:
            plan = study.trial(trial)
            self._ledger.end(trial, end.state, plan.value, end.facts(plan.refusal))
        self._bound_regret()  # due where the driver died before it was noted
        for trial, end in past.unsettled:
            self._end(trial, end)

    @property
    def done(self) -> bool:
        """Whether nothing more will be handed out."""
        return bool(self._stop_reason) or bool(self._spent())

    @property
    def interrupted(self) -> bool:
        """Whether the search was asked to stop, or left trials in flight."""
        return bool(self._stop_reason) or bool(self._open) or not self._spent()

    @property
    def seconds(self) -> float:
        """Return the wall seconds searched, over all sessions."""
        return self._clock() - self._started

    def stop(self, reason: str) -> None:
        """Hand out no more trials, and stop those in flight at their next epoch."""
        self._stop_reason = reason
        for observer in self._observers:
            observer.stopping()

    def next(self) -> Assignment | None:
        """Return the next trial to run, or None for none now (see `done`).

        Raises:
            ValueError: The space yields no network that fits the images and the limits, or workers
                die before they finish a single epoch.
        """
        if self._lost_in_a_row >= 3 * _MOST_LOSSES:
            raise ValueError(
                f"{self._lost_in_a_row} workers in a row died before they finished an epoch: too"
                " little memory, or a driver problem; see Ray's logs, then resume"
            )
        if not self._stop_reason and (spent := self._budget.exhausted(self.seconds)):
            while self._in_flight:
                self._end(self._in_flight.pop(0), _budget_ended(spent))
        if not self._stop_reason and not self._open and self._spent():
            for trial in sorted(self._strategy.paused):
                self._end(trial, Ending(outcome="pruned", reason=self._strategy.standing(trial)))
        if self.done or len(self._open) >= self._slots:
            return None
        if self._in_flight:
            return self._hand_out(self._in_flight.pop(0))
        epochs = self._slots * self._study.config.max_epochs
        last_stretch = self._budget.is_last_stretch(self.seconds, epochs=epochs)
        if promotion := self._strategy.next_promotion(last_stretch=last_stretch):
            self._strategy.promote(promotion.trial)
            self._study.record.add_event("promoted", promotion.trial, decision=promotion)
            return self._hand_out(promotion.trial)
        return None if self._budget.spent(self.seconds) else self._propose()

    def place(self, trial: int, *, node: str, pid: int) -> None:
        """Record which worker process runs a trial."""
        attempt = self._open[trial].attempt
        self._study.record.place_attempt(trial, attempt, node=node, pid=pid)

    def remark(self, trial: int, text: str) -> None:
        """Record what a worker had to do otherwise than asked; it is said with the trial's end."""
        self._open[trial].remark = text
        self._ledger.note(trial, {"remark": text})

    def on_epoch(self, trial: int, metrics: EpochMetrics) -> Verdict:
        """Record an epoch, decide, and end the trial where the verdict is stop."""
        entry = self._open[trial]
        self._lost_in_a_row = 0
        value = score(metrics)
        decision = None
        if value is not None:
            decision = self._strategy.judge(trial, metrics.epoch, value)
        self._study.record.add_epoch(trial, entry.attempt, metrics, value, decision)
        if value is not None:
            self._ledger.report(trial, metrics.epoch, value)
        if metrics.epoch not in entry.epochs:
            self._budget.epoch()
        entry.epochs.add(metrics.epoch)
        for observer in self._observers:
            observer.epoch(trial, metrics, decision)
        return self._act(trial, metrics, decision)

    def on_failure(self, trial: int, trace: str) -> None:
        """End a trial whose own code failed; the last line of the traceback is its reason."""
        reason = (trace.strip() or "failed without a message").splitlines()[-1]
        self._end(trial, Ending(outcome="failed", reason=reason), detail=trace)

    def on_lost(self, trial: int, reason: str) -> None:
        """Hand a trial whose worker died out again, from its checkpoint, a few times."""
        if trial not in self._open:
            return
        self._lost_in_a_row += 1
        self._leave(trial, outcome="lost", reason=reason)
        losses = sum(
            attempt["trial"] == trial and attempt["outcome"] == "lost"
            for attempt in self._study.record.attempts()
        )
        if losses >= _MOST_LOSSES:
            why = f"its worker died {losses} times: {reason}"
            self._end(trial, Ending(outcome="failed", reason=why))
        else:
            self._in_flight.append(trial)

    def _act(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> Verdict:
        action, why = ("", "") if decision is None else (decision.action, decision.reason)
        stopped = why if action == "stop" else ""
        max_epochs = self._study.config.max_epochs
        end = ending(metrics.epoch, score(metrics), stopped, max_epochs=max_epochs)
        if end is None and decision is not None and action == "pause":
            self._budget.trial_ended(decision.value, trial=trial)
            self._leave(trial, outcome="paused", reason=why)
            return Verdict(action="stop", reason=why)
        if end is None and self._stop_reason:
            # Stays open in the record: it goes on from its checkpoint when the study does.
            self._leave(trial, outcome="stopped", reason=self._stop_reason)
            return Verdict(action="stop", reason=self._stop_reason)
        if end is None and (spent := self._budget.exhausted(self.seconds)):
            end = _budget_ended(spent)
        if end is None:
            return Verdict(action="continue")
        self._end(trial, end)
        return Verdict(action="stop", reason=end.reason)

    def _propose(self) -> Assignment:
        for _ in range(_MOST_REFUSALS):
            proposal = self._strategy.propose()
            self._ledger.add(proposal.template)
            self._study.record.add_event("proposed", proposal.number)
            self._budget.trial_begun()
            if not proposal.refusal:
                return self._hand_out(proposal.number)
            self._end(proposal.number, Ending(outcome="infeasible", reason=proposal.refusal))
        raise ValueError(
            f"{_MOST_REFUSALS} proposals in a row make no network that fits; the last one:"
            f" {proposal.refusal}. Widen `limits` or change `space`"
        )

    def _hand_out(self, trial: int) -> Assignment:
        plan = self._study.trial(trial)
        assert plan.configuration is not None
        last = plan.epochs[-1].epoch if plan.epochs else 0
        attempt = self._study.record.start_attempt(trial, from_epoch=last)
        self._budget.attempt_begun(trial, self.seconds)
        folder = self._study.trial_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        assignment = Assignment(
            trial=trial,
            attempt=attempt,
            configuration=Configuration.from_dict(plan.configuration),
            seed=derive_seed(self._study.config.seed, "trial", trial),
            checkpoint=folder / "last.safetensors",
            from_epoch=last,
        )
        self._open[trial] = _Open(attempt=attempt, epochs={row.epoch for row in plan.epochs})
        self._announced.add(trial)
        for observer in self._observers:
            observer.started(assignment, plan.origin)
        return assignment

    def _leave(self, trial: int, *, outcome: str, reason: str) -> str:
        """Take a trial off its slot; return the remark its worker made, or an empty string."""
        entry = self._open.pop(trial)
        self._budget.attempt_ended(trial, self.seconds)
        self._study.record.end_attempt(trial, entry.attempt, outcome=outcome, reason=reason)
        return entry.remark

    def _end(self, trial: int, end: Ending, *, detail: str = "") -> None:
        plan = self._study.trial(trial)
        if trial in self._open:
            remark = self._leave(trial, outcome=end.outcome, reason=detail or end.reason)
            if remark:
                end = replace(end, reason=f"{end.reason} ({remark})")
        self._study.record.add_event("ended", trial, outcome=end.outcome, reason=end.reason)
        if plan.refusal:
            self._budget.trial_refused()
        self._budget.trial_ended(worth(end.outcome, plan.value), trial=trial)
        facts = end.facts(plan.refusal)
        self._ledger.end(trial, end.state, plan.value, facts)
        self._strategy.end(trial, end.state, plan.value, facts)
        if end.outcome == "complete":
            self._bound_regret()
        if trial in self._announced:
            self._announced.remove(trial)
            for observer in self._observers:
                observer.ended(trial, end.outcome, end.reason)

    def _bound_regret(self) -> None:
        if self._study.config.budget.regret_bound and (bound := self._regret.update()) is not None:
            self._budget.regret(bound)

    def _spent(self) -> str:
        if reason := self._budget.exhausted(self.seconds):
            return reason
        waits = self._in_flight or (self._strategy.paused and self._promotions_may_come())
        return "" if waits else self._budget.spent(self.seconds)

    def _promotions_may_come(self) -> bool:
        return bool(self._open) or self._strategy.next_promotion() is not None


def _budget_ended(spent: str) -> Ending:
    return Ending(outcome="pruned", reason=f"the budget ended: {spent}")
