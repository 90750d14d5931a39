"""What the record says a search had done by the time its driver ended, well or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.train import EpochMetrics
from search.record import EpochRow
from search.study import Outcome, Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a trial ended."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """Where a search stands."""

    num_trials: int
    """Trials that count for the budget: begun, and not refused before training."""
    num_epochs: int
    """Epochs trained by all trials together."""
    scores: tuple[tuple[int, int, float], ...]
    """Trial, epoch, and the best validation accuracy of the trial by then."""
    in_flight: tuple[int, ...]
    """Trials that go on."""
    unsettled: tuple[tuple[int, Ending], ...]
    """Trials whose end is certain from their last epoch, but was not written down."""


def score(metrics: EpochMetrics | EpochRow) -> float | None:
    """Return an epoch's validation accuracy; None where the training diverged."""
    values = (metrics.train_loss, metrics.val_loss, metrics.val_accuracy)
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return metrics.val_accuracy


def ending(metrics: EpochMetrics | EpochRow, stopped: str, *, max_epochs: int) -> Ending | None:
    """Return how a trial ends at this epoch, or None where it goes on.

    `stopped` is ASHA's reason to stop the trial here, or empty.
    """
    if score(metrics) is None:
        reason = f"diverged: the loss is not finite at epoch {metrics.epoch}"
        return Ending(outcome="infeasible", reason=reason)
    if metrics.epoch >= max_epochs:
        return Ending(outcome="complete", reason=f"trained for all {metrics.epoch} epochs")
    return Ending(outcome="pruned", reason=stopped) if stopped else None


def recall(study: Study) -> Past:
    """Read where the search stands from the study's record."""
    stops = {
        (row["trial"], row["epoch"]): str(row["reason"])
        for row in study.record.decisions()
        if row["action"] == "stop"
    }
    num_trials = num_epochs = 0
    scores: list[tuple[int, int, float]] = []
    in_flight: list[int] = []
    unsettled: list[tuple[int, Ending]] = []
    for trial in study.trials():
        refused = trial.outcome == "infeasible" and not trial.epochs
        if trial.outcome == "waiting" or refused:
            continue
        num_trials += 1
        num_epochs += len(trial.epochs)
        best = -math.inf
        for row in trial.epochs:
            value = score(row)
            if value is not None:
                best = max(best, value)
                scores.append((trial.number, row.epoch, best))
        if trial.outcome != "running":
            continue
        end = None
        if trial.epochs:
            last = trial.epochs[-1]
            stopped = stops.get((trial.number, last.epoch), "")
            end = ending(last, stopped, max_epochs=study.config.max_epochs)
        if end is None:
            in_flight.append(trial.number)
        else:
            unsettled.append((trial.number, end))
    return Past(
        num_trials=num_trials,
        num_epochs=num_epochs,
        scores=tuple(scores),
        in_flight=tuple(in_flight),
        unsettled=tuple(unsettled),
    )
