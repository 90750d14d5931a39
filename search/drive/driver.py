"""What happens next in a study: hand out trials, judge epochs, end trials, keep the budget.

No Ray and no training here: `search.engine.bridge` drives this from Ray Tune, a test or a
simulation drives it by hand. Everything it decides is in the record before it is acted on, and a
new driver starts from the record alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from data.images import ImageShape
from model.train import EpochMetrics
from search.drive.chapters import first_strategy
from search.drive.failure import Failure, Failures
from search.drive.flight import Flight
from search.drive.news import News
from search.drive.regret import Regret
from search.drive.restore import Ending, budget_ended, ending, restore, score
from search.propose.ledger import Ledger
from search.prune.assignment import Assignment, Observer, Verdict
from search.prune.budget import Budget, worth
from search.prune.ladder import Decision
from search.record.lineage import inherited
from search.record.study import Outcome, Study, trial_name
from search.record.trial import trial_of

_MOST_REFUSALS = 20  # trials in a row; the proposer has drawn many times for each


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
        self._study, self._slots, self._clock = study, slots, clock
        self._ledger = Ledger(study.optuna, study.writing)
        self._strategy = first_strategy(config, shape, study.extensions, inherited(study))
        self._budget = Budget(config.budget, share=share)
        self._regret = Regret(study, self._budget)
        self._failures = Failures(slots)
        self.flight = Flight(
            study, self._budget, self._ledger, slots=slots, seconds=lambda: self.seconds
        )
        self._announced: set[int] = set()
        self._news = News(observers, committed=study.step, then=self._regret.update)
        self._stop_reason = self._hopeless = ""
        self.halted = ""
        """Why the search cannot go on until somebody has done something; empty if it can."""
        study.record.close_attempts("the driver ended before it")
        self._started = clock() - study.sessions.spent_seconds("search")
        past = restore(study, self._strategy, self._budget, self._ledger, shape)
        self.flight.go_on(past.in_flight, past.alone)
        self._regret.recall()
        for trial, end in past.untold:
            plan = study.trial(trial)
            self._ledger.end(trial, end.state, plan.value, end.facts(plan.refusal))
        self._regret.update()
        for trial, end in past.unsettled:
            with self.step():
                self._end(trial, end)

    @property
    def done(self) -> bool:
        """Whether nothing more will be handed out."""
        return bool(self._stop_reason) or bool(self._spent())

    @property
    def interrupted(self) -> bool:
        """Whether the search was asked to stop, or left trials in flight."""
        busy = len(self.flight) > 0 or self.flight.waits
        return bool(self._stop_reason) or busy or not self._spent()

    @property
    def seconds(self) -> float:
        """Return the wall seconds searched, over all sessions."""
        return self._clock() - self._started

    def stop(self, reason: str) -> None:
        """Hand out no more trials, and stop those in flight at their next epoch."""
        self._stop_reason = reason
        for observer in self._news.observers:
            observer.stopping(reason)

    def step(self) -> AbstractContextManager[None]:
        """Make one transaction of all that the driver is told in a block; see `News.step`."""
        return self._news.step()

    def next(self) -> Assignment | None:
        """Return the next trial to run, or None for none now (see `done`).

        Raises:
            ValueError: The space yields no network that fits the images and the limits.
        """
        with self.step():  # what was refused stays in the record
            assignment = self._next()
        if self._hopeless:
            raise ValueError(self._hopeless)
        return assignment

    def _next(self) -> Assignment | None:
        if not self._stop_reason and (spent := self._budget.exhausted(self.seconds)):
            for trial in self.flight.give_up_waiting():
                self._end(trial, budget_ended(spent))
        if not self._stop_reason and not len(self.flight) and self._spent():
            for trial in sorted(self._strategy.paused):
                self._end(trial, Ending(outcome="pruned", reason=self._strategy.standing(trial)))
        if self.done or self.flight.is_full:
            return None
        if self.flight.waits:
            waiting = self.flight.take_waiting()
            return None if waiting is None else self._hand_out(waiting)
        epochs = self._slots * self._study.config.max_epochs
        last_stretch = self._budget.is_last_stretch(self.seconds, epochs=epochs)
        if promotion := self._strategy.next_promotion(last_stretch=last_stretch):
            if not self.flight.may_begin(promotion.trial):
                return None
            self._strategy.promote(promotion.trial)
            self._study.record.add_event("promoted", promotion.trial, decision=promotion)
            return self._hand_out(promotion.trial)
        return None if self._budget.spent(self.seconds) else self._propose()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on: a node came, or is gone. No trial is taken off one."""
        self._slots = slots
        self.flight.resize(slots)
        self._failures.resize(slots)

    @property
    def ends_now(self) -> bool:
        """Whether trials in flight are to stop at their next epoch, or before their first."""
        return bool(self._stop_reason) or bool(self._budget.exhausted(self.seconds))

    def take_back(self, trial: int, reason: str) -> None:
        """Take a trial off a slot that no worker came to; it waits for another one."""
        with self.step():
            self.flight.leave(trial, outcome="stopped", reason=reason)
            self.flight.wait(trial)

    def place(self, trial: int, *, node: str, pid: int) -> None:
        """Record which worker process runs a trial."""
        self.flight.place(trial, node=node, pid=pid)

    def remark(self, trial: int, text: str) -> None:
        """Record what a worker had to do otherwise than asked; it is said with the trial's end."""
        self.flight.remark(trial, text)

    def on_epoch(self, trial: int, metrics: EpochMetrics) -> Verdict:
        """Record an epoch, decide, and end the trial where the verdict is stop."""
        with self.step():
            return self._on_epoch(trial, metrics)

    def _on_epoch(self, trial: int, metrics: EpochMetrics) -> Verdict:
        self._failures.progressed()
        value = score(metrics)
        decision = None
        if value is not None:
            decision = self._strategy.judge(trial, metrics.epoch, value)
        attempt = self.flight.attempt(trial)
        row = self._study.record.add_epoch(trial, attempt, metrics, value, decision)
        self._study.know(self._study.trial(trial).with_epoch(row))
        if value is not None:
            self._ledger.report(trial, metrics.epoch, value)
        self.flight.saw(trial, metrics)
        self._news.add(lambda observer: observer.epoch(trial, metrics, decision))
        return self._act(trial, metrics, decision)

    def on_failure(self, trial: int, failure: Failure) -> None:
        """Try a trial again, end it, or halt the study: as the kind of its failure asks for."""
        if trial in self.flight:
            with self.step():
                self._on_failure(trial, failure)

    def _on_failure(self, trial: int, failure: Failure) -> None:
        rows = self._study.record.failures(trial)
        earlier = [(row["failure"], row["from_epoch"]) for row in rows]
        answer = self._failures.answer(failure, earlier, epochs=self.flight.num_epochs(trial))
        if answer.action in ("fail", "infeasible"):
            outcome: Outcome = "failed" if answer.action == "fail" else "infeasible"
            end = Ending(outcome=outcome, reason=answer.reason, failure=failure.kind)
            self._end(trial, end, detail=failure.trace)
            same = self._failures.ended_by_same(failure, trial) if failure.kind == "bug" else ()
            if same:
                names = ", ".join(map(trial_name, same))
                self._halt(
                    f"the same error ended {names}: {failure.reason}; see it with: python -m search"
                    f" reproduce {self._study.name} {trial_name(trial)}"
                )
            return
        # A trial of a halted study stays open in the record: it goes on when the study does.
        left = "stopped" if answer.action == "halt" else "lost"
        self.flight.leave(trial, outcome=left, reason=answer.reason, failure=failure.kind)
        self.flight.wait(trial)
        if answer.action == "retry alone":
            self.flight.keep_alone(trial)
        self._news.add(lambda observer: observer.failed(trial, failure.kind, answer.reason))
        if answer.action == "halt":
            self._halt(answer.reason)

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self.stop(reason)

    def _act(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> Verdict:
        action, why = ("", "") if decision is None else (decision.action, decision.reason)
        stopped = why if action == "stop" else ""
        max_epochs = self.flight.max_epochs(trial)
        end = ending(metrics.epoch, score(metrics), stopped, max_epochs=max_epochs)
        if end is None and decision is not None and action == "pause":
            self._budget.trial_ended(decision.value, trial=trial)
            self.flight.leave(trial, outcome="paused", reason=why)
            return Verdict(action="stop", reason=why)
        if end is None and self._stop_reason:
            # Stays open in the record: it goes on from its checkpoint when the study does.
            self.flight.leave(trial, outcome="stopped", reason=self._stop_reason)
            return Verdict(action="stop", reason=self._stop_reason)
        if end is None and (spent := self._budget.exhausted(self.seconds)):
            end = budget_ended(spent)
        if end is None:
            return Verdict(action="continue")
        self._end(trial, end)
        return Verdict(action="stop", reason=end.reason)

    def _propose(self) -> Assignment | None:
        for _ in range(_MOST_REFUSALS):
            proposal = self._strategy.propose()
            self._ledger.add(proposal.template)
            self._study.know(trial_of(proposal.template, ()))
            self._study.record.add_event("proposed", proposal.number)
            self._budget.trial_begun()
            if not proposal.refusal:
                return self._hand_out(proposal.number)
            self._end(proposal.number, Ending(outcome="infeasible", reason=proposal.refusal))
        self._hopeless = (
            f"{_MOST_REFUSALS} proposals in a row make no network that fits; the last one:"
            f" {proposal.refusal}. Widen `limits` or change `space`"
        )
        return None

    def _hand_out(self, trial: int) -> Assignment:
        plan = self._study.trial(trial)
        assignment = self.flight.begin(plan)
        self._announced.add(trial)
        self._news.add(lambda observer: observer.started(assignment, plan.origin))
        return assignment

    def _end(self, trial: int, end: Ending, *, detail: str = "") -> None:
        plan = self._study.trial(trial)
        if trial in self.flight:
            remark = self.flight.leave(
                trial, outcome=end.outcome, reason=detail or end.reason, failure=end.failure
            )
            if remark:
                end = replace(end, reason=f"{end.reason} ({remark})")
        self._study.record.add_event(
            "ended", trial, outcome=end.outcome, reason=end.reason, failure=end.failure or None
        )
        if plan.refusal:
            self._budget.trial_refused()
        self._budget.trial_ended(worth(end.outcome, plan.value), trial=trial)
        facts = end.facts(plan.refusal)
        self._ledger.end(trial, end.state, plan.value, facts)
        self._strategy.end(trial, end.state, plan.value, facts)
        self._study.know(replace(plan, outcome=end.outcome, reason=end.reason, failure=end.failure))
        if end.outcome == "complete":
            self._regret.trial_completed()
        if trial in self._announced:
            self._announced.remove(trial)
            self._news.add(lambda observer: observer.ended(trial, end.outcome, end.reason))

    def _spent(self) -> str:
        if reason := self._budget.exhausted(self.seconds):
            return reason
        waits = self.flight.waits or (
            self._strategy.has_paused
            and (len(self.flight) > 0 or self._strategy.next_promotion() is not None)
        )
        return "" if waits else self._budget.spent(self.seconds)
