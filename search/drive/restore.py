"""Bring a search to where its record says it was when its driver ended, well or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState, create_trial

from data.images import ImageShape
from model.train import EpochMetrics
from search.drive.chapters import extend_strategy
from search.drive.failure import NEED_MORE_MEMORY
from search.drive.strategy import Strategy
from search.propose.fidelity_sampler import UNTRAINABLE
from search.propose.ledger import Ledger
from search.prune.budget import Budget, worth
from search.record.extension import Extension, taken_back
from search.record.record import EpochRow
from search.record.study import Outcome, Study, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a trial ended."""

    outcome: Outcome
    reason: str
    failure: str = ""
    """The kind of failure that ended it, or empty."""

    @property
    def state(self) -> TrialState:
        """Return Optuna's word for it."""
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        return states.get(self.outcome, TrialState.FAIL)

    def facts(self, refusal: str) -> dict[str, object]:
        """Return what is noted on the trial; `refusal` is why it was not trained, or empty."""
        facts: dict[str, object] = {"reason": self.reason}
        if self.failure:
            facts["failure"] = self.failure
        if self.outcome == "infeasible":
            facts["infeasible"] = True
            if not refusal:
                facts[UNTRAINABLE] = True
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What is left to do."""

    in_flight: tuple[int, ...]
    """Trials that go on."""
    alone: frozenset[int]
    """Trials that need the memory of the whole machine; those that have ended among them."""
    unsettled: tuple[tuple[int, Ending], ...]
    """Trials whose end is certain, but was not written down."""
    untold: tuple[tuple[int, Ending], ...]
    """Trials whose end was written down, but not told to Optuna."""


def score(metrics: EpochMetrics | EpochRow) -> float | None:
    """Return an epoch's validation accuracy; None where the training diverged."""
    values = (metrics.train_loss, metrics.val_loss, metrics.val_accuracy)
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return metrics.val_accuracy


def ending(epoch: int, value: float | None, stopped: str, *, max_epochs: int) -> Ending | None:
    """Return how a trial ends at this epoch, or None where it goes on.

    Args:
        epoch: How many it has trained.
        value: The epoch's `score`.
        stopped: ASHA's reason to stop the trial here, or empty.
        max_epochs: How many a whole trial trains.
    """
    if value is None:
        reason = f"diverged: the loss is not finite at epoch {epoch}"
        return Ending(outcome="infeasible", reason=reason, failure="diverged")
    if epoch >= max_epochs:
        length = "its 1 epoch" if epoch == 1 else f"all {epoch} epochs"
        return Ending(outcome="complete", reason=f"trained for {length}")
    return Ending(outcome="pruned", reason=stopped) if stopped else None


def stop_reasons(study: Study) -> dict[tuple[int, int], str]:
    """Return why ASHA stopped trials: trial and epoch -> reason."""
    return {
        (row["trial"], row["epoch"]): str(row["reason"])
        for row in study.record.decisions()
        if row["action"] == "stop"
    }


def certain_end(trial: Trial, stops: Mapping[tuple[int, int], str]) -> Ending | None:
    """Return the end that follows from what is known of a trial, or None where it can go on.

    `stops`: see `stop_reasons`.
    """
    if trial.refusal:
        return Ending(outcome="infeasible", reason=trial.refusal)
    if not trial.epochs:
        return None
    last = trial.epochs[-1]
    stopped = stops.get((trial.number, last.epoch), "")
    return ending(last.epoch, score(last), stopped, max_epochs=trial.max_epochs)


def budget_ended(spent: str) -> Ending:
    """Return how a trial ends that was in flight when the budget was spent."""
    return Ending(outcome="pruned", reason=f"the budget ended: {spent}")


def is_of_budget(outcome: str | None, reason: str | None) -> bool:
    """Return whether a trial ended in flight, when the budget was spent.

    When that was depends on clocks.
    """
    return outcome == "pruned" and (reason or "").startswith("the budget ended: ")


def restore(
    study: Study, strategy: Strategy, budget: Budget, ledger: Ledger, shape: ImageShape
) -> Past:
    """Tell the strategy and the budget all that happened, in order, and complete the record.

    A step is in the record whole or not at all. In records of earlier versions a driver that was
    killed may have left half of one behind: Optuna's tables were written after ours, but for a
    proposal, which Optuna numbered.
    """
    # Once: with a thousand trials that wait, Optuna takes seconds to read them.
    made = _complete_reopening(study, ledger)
    trials = study.trials(made)
    _complete_events(study, trials)
    ended = _replay(study, trials, made, strategy, budget, shape)
    attempts = study.record.attempts()
    for attempt in attempts:
        if attempt["ended_at"] is not None:
            budget.device_seconds(attempt["ended_at"] - attempt["started_at"])
    stops = stop_reasons(study)
    in_flight: list[int] = []
    unsettled: list[tuple[int, Ending]] = []
    for trial in trials:
        if trial.outcome != "running":
            continue
        study.know(trial)
        _complete_values(trial, made[trial.number].intermediate_values, ledger)
        if trial.number in ended:
            continue
        if (end := certain_end(trial, stops)) is not None:
            unsettled.append((trial.number, end))
        elif trial.number not in strategy.paused:
            in_flight.append(trial.number)
    running = {trial.number for trial in trials if trial.outcome == "running"}
    return Past(
        in_flight=tuple(in_flight),
        alone=frozenset(a["trial"] for a in attempts if a["failure"] in NEED_MORE_MEMORY),
        unsettled=tuple(unsettled),
        untold=tuple((trial, end) for trial, end in ended.items() if trial in running),
    )


def _as_made(trial: FrozenTrial) -> FrozenTrial:
    template = create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={key: value for key, value in trial.user_attrs.items() if key != UNTRAINABLE},
    )
    template.number = trial.number
    return template


def _complete_events(study: Study, trials: list[Trial]) -> None:
    known = {event.trial for event in study.record.events() if event.kind == "proposed"}
    for trial in trials:
        if trial.number not in known:
            study.record.add_event("proposed", trial.number)


def _complete_reopening(study: Study, ledger: Ledger) -> list[FrozenTrial]:
    """Let trials run again in Optuna's tables whose end was taken back and not made up for.

    Returns all trials as Optuna has them then.
    """
    events = study.record.events()
    back = taken_back(events)
    ended = {event.trial: event.id for event in events if event.kind == "ended"}
    made = study.optuna.get_trials(deepcopy=False)
    over = [n for n, event in ended.items() if event in back and made[n].state.is_finished()]
    for trial in over:
        ledger.reopen(trial)
    return study.optuna.get_trials(deepcopy=False) if over else made


def _complete_values(trial: Trial, told: Mapping[int, float], ledger: Ledger) -> None:
    for row in trial.epochs:
        value = score(row)
        if value is not None and told.get(row.epoch) != value:
            ledger.report(trial.number, row.epoch, value)


def _replay(
    study: Study,
    trials: Sequence[Trial],
    made: Sequence[FrozenTrial],
    strategy: Strategy,
    budget: Budget,
    shape: ImageShape,
) -> dict[int, Ending]:
    ended: dict[int, Ending] = {}
    seen: set[tuple[int, int]] = set()
    events = study.record.events()
    back = taken_back(events)
    for event in events:
        if event.kind == "proposed":
            budget.trial_begun()
            strategy.adopt(_as_made(made[event.trial]))
        elif event.kind == "promoted":
            strategy.promote(event.trial)
        elif event.kind == "epoch":
            assert event.epoch is not None
            if (event.trial, event.epoch) not in seen:
                budget.epoch()
            seen.add((event.trial, event.epoch))
            if event.value is not None:
                decision = strategy.judge(event.trial, event.epoch, event.value)
                if decision is not None and decision.action == "pause":
                    budget.trial_ended(decision.value, trial=event.trial)
        elif event.kind == "extended":
            extend_strategy(strategy, Extension.of_event(event), study.config, shape)
        elif event.kind == "ended" and event.id not in back:
            trial = trials[event.trial]
            if trial.refusal:
                budget.trial_refused()
            budget.trial_ended(worth(event.outcome, trial.value), trial=event.trial)
            outcome: Outcome = event.outcome  # type: ignore[assignment]
            end = ended[event.trial] = Ending(
                outcome=outcome, reason=event.reason or "", failure=event.failure or ""
            )
            strategy.end(event.trial, end.state, trial.value, end.facts(trial.refusal))
    return ended
