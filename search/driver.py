"""What happens next in a study: hand out trials, judge epochs, end trials, keep the budget.

No Ray and no training here: `search.bridge` drives this from Ray Tune, a test or a simulation
drives it by hand. Everything it decides is in the record before it is acted on, and a new driver
starts from the record alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from data.images import ImageShape
from model.config import Configuration
from model.geometry import network_cost
from model.train import EpochMetrics
from search.asha import Asha
from search.assignment import Assignment, Observer, Verdict, derive_seed
from search.restore import Ending, ending, recall, score
from search.sampler import Proposer
from search.study import Outcome, Study

_MOST_REFUSALS = 20  # trials in a row; the proposer has drawn many times for each
_MOST_LOSSES = 4  # a lost worker is not the trial's fault; a trial that always loses it may be
_STATES: dict[Outcome, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.FAIL,
}


@dataclass(kw_only=True, slots=True)
class _Open:
    attempt: int
    scores: dict[int, float]
    """Epoch -> validation accuracy, over all attempts."""
    remark: str = ""


class Driver:
    """The state of one search."""

    def __init__(
        self,
        study: Study,
        *,
        shape: ImageShape,
        slots: int,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Rebuild rungs, budget and trials in flight from the study's record.

        Args:
            study: The study to search.
            shape: Image shape and number of classes, from the data.
            slots: Trials that may be open at a time.
            observers: Told of every event, in order.
            clock: Seconds that only go forward.
        """
        config = study.config
        self._study, self._shape, self._slots = study, shape, slots
        self._observers, self._clock = tuple(observers), clock
        self._proposer = Proposer(
            study.optuna,
            config.search_space(),
            config.sampler,
            seed=config.seed,
            refuse=self._refuse,
        )
        self._asha = Asha(
            grace_epochs=config.asha.grace_epochs,
            reduction_factor=config.asha.reduction_factor,
            max_epochs=config.max_epochs if config.asha.enabled else 0,
            min_competitors=config.asha.min_competitors,
        )
        self._open: dict[int, _Open] = {}
        self._announced: set[int] = set()
        self._lost_in_a_row = 0
        self._stop_reason = ""
        past = recall(study)
        self._in_flight = list(past.in_flight)
        self._epochs, self._proposed = past.num_epochs, past.num_trials
        for trial, epoch, value in past.scores:
            self._asha.restore(trial, epoch, value)
        study.record.close_attempts("the driver ended before it")
        for trial, end in past.unsettled:
            self._end(trial, end)
        self._started = clock() - study.record.spent_seconds("search")

    @property
    def done(self) -> bool:
        """Whether nothing more will be handed out."""
        return bool(self._spent()) or bool(self._stop_reason)

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
        if not self._stop_reason and (spent := self._out_of_resources()):
            while self._in_flight:
                self._end(self._in_flight.pop(0), _budget_ended(spent))
        if self.done or len(self._open) >= self._slots:
            return None
        for _ in range(_MOST_REFUSALS):
            again = self._in_flight.pop(0) if self._in_flight else None
            proposal = self._proposer.ask(again)
            if proposal.configuration is not None:
                self._note_cost(proposal.number, proposal.configuration)
            if not proposal.refusal:
                self._proposed += again is None
                return self._hand_out(proposal.number)
            self._proposed -= again is not None
            self._end(proposal.number, Ending(outcome="infeasible", reason=proposal.refusal))
        raise ValueError(
            f"{_MOST_REFUSALS} proposals in a row make no network that fits; the last one:"
            f" {proposal.refusal}. Widen `limits` or change `space`"
        )

    def place(self, trial: int, *, node: str, pid: int) -> None:
        """Record which worker process runs a trial."""
        attempt = self._open[trial].attempt
        self._study.record.place_attempt(trial, attempt, node=node, pid=pid)

    def remark(self, trial: int, text: str) -> None:
        """Record what a worker had to do otherwise than asked; it is said with the trial's end."""
        self._open[trial].remark = text
        self._proposer.note(trial, remark=text)

    def on_epoch(self, trial: int, metrics: EpochMetrics) -> Verdict:
        """Record an epoch, decide, and end the trial where the verdict is stop."""
        entry = self._open[trial]
        self._lost_in_a_row = 0
        value = score(metrics)
        decision = None
        self._epochs += metrics.epoch not in entry.scores
        if value is not None:
            # An epoch that is trained again, from an older checkpoint, does not know later ones.
            earlier = [v for epoch, v in entry.scores.items() if epoch < metrics.epoch]
            decision = self._asha.decide(trial, metrics.epoch, max([value, *earlier]))
            # Optuna first: the worker tells an epoch again that the record does not hold.
            self._proposer.report(trial, epoch=metrics.epoch, value=value)
            entry.scores[metrics.epoch] = value
        self._study.record.add_epoch(trial, entry.attempt, metrics, [decision] if decision else [])
        for observer in self._observers:
            observer.epoch(trial, metrics, decision)
        stopped = decision.reason if decision is not None and decision.action == "stop" else ""
        end = ending(metrics, stopped, max_epochs=self._study.config.max_epochs)
        if end is None and self._stop_reason:
            # Stays open in the record: it goes on from its checkpoint when the study does.
            self._open.pop(trial)
            self._study.record.end_attempt(
                trial, entry.attempt, outcome="stopped", reason=self._stop_reason
            )
            return Verdict(action="stop", reason=self._stop_reason)
        if end is None and (spent := self._out_of_resources()):
            end = _budget_ended(spent)
        if end is None:
            return Verdict(action="continue")
        self._end(trial, end)
        return Verdict(action="stop", reason=end.reason)

    def on_failure(self, trial: int, trace: str) -> None:
        """End a trial whose own code failed; the last line of the traceback is its reason."""
        reason = (trace.strip() or "failed without a message").splitlines()[-1]
        self._end(trial, Ending(outcome="failed", reason=reason), detail=trace)

    def on_lost(self, trial: int, reason: str) -> None:
        """Hand a trial whose worker died out again, from its checkpoint, a few times."""
        entry = self._open.get(trial)
        if entry is None:
            return
        self._open.pop(trial)
        self._lost_in_a_row += 1
        self._study.record.end_attempt(trial, entry.attempt, outcome="lost", reason=reason)
        losses = sum(
            attempt["trial"] == trial and attempt["outcome"] == "lost"
            for attempt in self._study.record.attempts()
        )
        if losses >= _MOST_LOSSES:
            why = f"its worker died {losses} times: {reason}"
            self._end(trial, Ending(outcome="failed", reason=why))
        else:
            self._in_flight.append(trial)

    def _hand_out(self, trial: int) -> Assignment:
        plan = self._study.trial(trial)
        assert plan.configuration is not None
        last = plan.epochs[-1].epoch if plan.epochs else 0
        attempt = self._study.record.start_attempt(trial, from_epoch=last)
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
        scores = {row.epoch: value for row in plan.epochs if (value := score(row)) is not None}
        self._open[trial] = _Open(attempt=attempt, scores=scores)
        self._announced.add(trial)
        for observer in self._observers:
            observer.started(assignment, plan.origin)
        return assignment

    def _refuse(self, configuration: Configuration) -> str:
        try:
            cost = network_cost(configuration.network, self._shape)
        except ValueError as error:
            return str(error)
        return self._study.config.limits.refuse(cost.parameters, cost.multiply_adds)

    def _note_cost(self, trial: int, configuration: Configuration) -> None:
        try:
            cost = network_cost(configuration.network, self._shape)
        except ValueError:
            return  # refused for that reason
        self._proposer.note(trial, parameters=cost.parameters, multiply_adds=cost.multiply_adds)

    def _end(self, trial: int, end: Ending, *, detail: str = "") -> None:
        entry = self._open.pop(trial, None)
        reason = end.reason
        if entry is not None:
            self._study.record.end_attempt(
                trial, entry.attempt, outcome=end.outcome, reason=detail or end.reason
            )
            reason += f" ({entry.remark})" if entry.remark else ""
        self._proposer.note(trial, reason=reason)
        if end.outcome == "infeasible":
            self._proposer.note(trial, infeasible=True)
        value = self._study.trial(trial).value if end.outcome == "complete" else None
        self._proposer.tell(trial, _STATES[end.outcome], value)
        if trial in self._announced:
            self._announced.remove(trial)
            for observer in self._observers:
                observer.ended(trial, end.outcome, reason)

    def _spent(self) -> str:
        trials = self._study.config.budget.trials
        if trials is not None and self._proposed >= trials and not self._in_flight:
            return f"{trials} trials"
        return self._out_of_resources()

    def _out_of_resources(self) -> str:
        budget = self._study.config.budget
        if budget.epochs is not None and self._epochs >= budget.epochs:
            return f"{budget.epochs} epochs"
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"{budget.seconds:g} seconds"
        return ""


def _budget_ended(spent: str) -> Ending:
    return Ending(outcome="pruned", reason=f"the budget ended: {spent}")
