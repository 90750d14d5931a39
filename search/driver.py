"""What happens next in a study: hand out trials, judge epochs, end trials, keep the budget.

No Ray and no training here: `search.bridge` drives this from Ray Tune, a test or a simulation
drives it by hand. Everything it decides is in the record before it is acted on, and a new driver
starts from the record alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from optuna.trial import TrialState

from data.images import ImageShape
from model.geometry import network_cost
from model.config import Configuration
from model.train import EpochMetrics
from search.asha import Asha, Decision
from search.config import LimitsSection
from search.sampler import Proposer
from search.study import Study

_MOST_REFUSALS = 200
_MOST_ATTEMPTS = 4  # a lost worker is not the trial's fault; a trial that always loses it may be


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """A trial handed to a worker."""

    trial: int
    attempt: int
    configuration: Configuration
    seed: int
    checkpoint: Path
    """Where the trial's checkpoint is written, and read from when it exists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a worker does after an epoch."""

    action: Literal["continue", "stop"]
    reason: str = ""


class Observer(Protocol):
    """Watches a search: the screen, the logs, TensorBoard."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Note that a trial was handed out."""

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Note that an epoch was recorded."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Note that a trial ended."""


@dataclass(kw_only=True, slots=True)
class _Open:
    assignment: Assignment
    best: float = -math.inf
    epoch: int = 0


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
            study.optuna, config.search_space(), config.sampler, seed=config.seed
        )
        self._asha = Asha(
            grace_epochs=config.asha.grace_epochs,
            reduction_factor=config.asha.reduction_factor,
            max_epochs=config.max_epochs if config.asha.enabled else 0,
            min_competitors=config.asha.min_competitors,
        )
        self._open: dict[int, _Open] = {}
        self._in_flight: list[int] = []
        self._epochs = 0
        self._proposed = 0
        self._stop_reason = ""
        self._restore()
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
            ValueError: The space yields no network that fits the images and the limits.
        """
        if self.done or len(self._open) >= self._slots:
            return None
        if self._in_flight:
            return self._hand_out(self._in_flight.pop(0))
        for _ in range(_MOST_REFUSALS):
            proposal = self._proposer.ask()
            refusal = proposal.refusal
            if proposal.configuration is not None:
                refusal = self._refuse(proposal.number, proposal.configuration)
            if not refusal:
                self._proposed += 1
                return self._hand_out(proposal.number)
            self._proposer.note(proposal.number, infeasible=True, reason=refusal)
            self._proposer.tell(proposal.number, TrialState.FAIL)
        raise ValueError(
            f"{_MOST_REFUSALS} proposals in a row make no network that fits; the last one:"
            f" {refusal}. Widen `limits` or change `space`"
        )

    def place(self, trial: int, *, node: str, pid: int) -> None:
        """Record which worker process runs a trial."""
        attempt = self._open[trial].assignment.attempt
        self._study.record.place_attempt(trial, attempt, node=node, pid=pid)

    def on_epoch(self, trial: int, metrics: EpochMetrics) -> Verdict:
        """Record an epoch, decide, and end the trial where the verdict is stop."""
        entry = self._open[trial]
        config = self._study.config
        value = metrics.val_accuracy
        finite = value is not None and math.isfinite(value) and math.isfinite(metrics.train_loss)
        finite = finite and metrics.val_loss is not None and math.isfinite(metrics.val_loss)
        decision = None
        if finite and value is not None:
            entry.best = max(entry.best, value)
            decision = self._asha.decide(trial, metrics.epoch, entry.best)
        entry.epoch = metrics.epoch
        self._epochs += 1
        self._study.record.add_epoch(
            trial, entry.assignment.attempt, metrics, [decision] if decision else []
        )
        if finite and value is not None:
            self._proposer.report(trial, epoch=metrics.epoch, value=value)
        for observer in self._observers:
            observer.epoch(trial, metrics, decision)
        if not finite:
            reason = f"diverged: the loss is not finite at epoch {metrics.epoch}"
            self._end(trial, "infeasible", reason)
        elif metrics.epoch >= config.max_epochs:
            self._end(trial, "complete", f"trained for all {metrics.epoch} epochs")
        elif decision is not None and decision.action == "stop":
            self._end(trial, "pruned", decision.reason)
        elif self._stop_reason:
            # Stays open in the record: it goes on from its checkpoint when the study does.
            self._open.pop(trial)
            self._study.record.end_attempt(
                trial, entry.assignment.attempt, outcome="stopped", reason=self._stop_reason
            )
            return Verdict(action="stop", reason=self._stop_reason)
        elif spent := self._out_of_resources():
            self._end(trial, "pruned", f"the budget ended: {spent}")
        else:
            return Verdict(action="continue")
        return Verdict(action="stop")

    def on_failure(self, trial: int, reason: str) -> None:
        """End a trial whose own code failed; `reason` is the last line of its traceback."""
        self._end(trial, "failed", reason)

    def on_lost(self, trial: int, reason: str) -> None:
        """Hand a trial whose worker died out again, from its checkpoint, a few times."""
        entry = self._open.get(trial)
        if entry is None:
            return
        attempt = entry.assignment.attempt
        if attempt >= _MOST_ATTEMPTS:
            self._end(trial, "failed", f"its worker died {attempt} times: {reason}")
            return
        self._open.pop(trial)
        self._study.record.end_attempt(trial, attempt, outcome="lost", reason=reason)
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
        )
        best = max((row.val_accuracy for row in plan.epochs if row.val_accuracy), default=-math.inf)
        self._open[trial] = _Open(assignment=assignment, best=best, epoch=last)
        for observer in self._observers:
            observer.started(assignment, plan.origin)
        return assignment

    def _refuse(self, trial: int, configuration: Configuration) -> str:
        try:
            cost = network_cost(configuration.network, self._shape)
        except ValueError as error:
            return str(error)
        self._proposer.note(
            trial, parameters=cost.parameters, multiply_adds=cost.multiply_adds
        )
        return over_limits(cost.parameters, cost.multiply_adds, self._study.config.limits)

    def _end(
        self, trial: int, outcome: Literal["complete", "pruned", "failed", "infeasible"], why: str
    ) -> None:
        entry = self._open.pop(trial)
        self._study.record.end_attempt(
            trial, entry.assignment.attempt, outcome=outcome, reason=why
        )
        self._proposer.note(trial, reason=why)
        if outcome == "infeasible":
            self._proposer.note(trial, infeasible=True)
        if outcome == "complete":
            self._proposer.tell(trial, TrialState.COMPLETE, entry.best)
        elif outcome == "pruned":
            self._proposer.tell(trial, TrialState.PRUNED)
        else:
            self._proposer.tell(trial, TrialState.FAIL)
        for observer in self._observers:
            observer.ended(trial, outcome, why)

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

    def _restore(self) -> None:
        best: dict[int, float] = {}
        for trial in self._study.trials():
            refused = trial.outcome == "infeasible" and not trial.epochs
            if trial.outcome == "waiting" or refused:
                continue
            self._proposed += 1
            self._epochs += len(trial.epochs)
            if trial.outcome == "running":
                self._in_flight.append(trial.number)
            for row in trial.epochs:
                if row.val_accuracy is not None:
                    best[row.trial] = max(best.get(row.trial, -math.inf), row.val_accuracy)
                    self._asha.restore(row.trial, row.epoch, best[row.trial])


def over_limits(parameters: int, multiply_adds: int, limits: LimitsSection) -> str:
    """Return why a network costs more than `limits` allow, or an empty string."""
    for name, cost, limit in (
        ("parameters", parameters, limits.parameters),
        ("multiply-adds", multiply_adds, limits.multiply_adds),
    ):
        if limit is not None and cost > limit:
            return f"{cost} {name}, but at most {limit} are allowed"
    return ""


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed in [0, 2^31) that depends on `seed` and every label."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
