"""One trial of a study, as every reader sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from search.record.record import EpochRow

Outcome = Literal["complete", "pruned", "failed", "infeasible", "running"]
"""How a trial stands. `pruned`: stopped by ASHA or by the end of the budget. `infeasible`: diverged
or refused before training; never counted as a bug."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial as every reader sees it."""

    number: int
    outcome: Outcome
    reason: str
    """Why it ended; empty while it has not."""
    failure: str = ""
    """Of which kind its failure was (`search.drive.failure`); empty where it has not failed."""
    origin: str
    """`baseline seed-32`, `point 1`, or `sampler`."""
    configuration: dict[str, Any] | None
    parameters: int | None
    """Trainable parameters of the network."""
    multiply_adds: int | None
    """Per image, one forward pass."""
    refusal: str
    """Why it was not trained at all, or empty."""
    proposal: Mapping[str, Any]
    """What the sampler based it on; empty for baselines."""
    epochs: tuple[EpochRow, ...]

    def with_epoch(self, row: EpochRow) -> Trial:
        """Return it with another epoch, or with one anew that it had before."""
        others = self.epochs
        if others and others[-1].epoch >= row.epoch:
            others = tuple(known for known in others if known.epoch != row.epoch)
        epochs = sorted((*others, row), key=lambda known: known.epoch)
        return replace(self, epochs=tuple(epochs))

    @property
    def name(self) -> str:
        """Return the name in tables and on disk: t0007."""
        return trial_name(self.number)

    @property
    def is_baseline(self) -> bool:
        """Whether it is one of the study's baselines, which lie outside the space."""
        return self.origin.startswith("baseline ")

    @property
    def can_win(self) -> bool:
        """Whether it may be chosen: it has a value, and neither failed nor diverged."""
        return self.value is not None and self.outcome in ("complete", "pruned", "running")

    @property
    def merit(self) -> tuple[float, int, int]:
        """Return what trials are sorted by, the best first.

        By the highest validation accuracy of any epoch; ties go to the smaller network, then to the
        earlier trial.
        """
        return -(self.value or 0.0), self.parameters or 0, self.number

    @property
    def max_epochs(self) -> int:
        """Return how many epochs a whole training of it has; 0 where there is no configuration."""
        return 0 if self.configuration is None else int(self.configuration["training"]["epochs"])

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch with the highest validation accuracy, of equals the last.

        Where few images make many equals, the longer training is the safer one to repeat.
        """
        scored = [
            (row.val_accuracy, row.epoch) for row in self.epochs if row.val_accuracy is not None
        ]
        return max(scored)[1] if scored else None

    @property
    def value(self) -> float | None:
        """Return the highest validation accuracy so far: what is searched for."""
        scores = [row.val_accuracy for row in self.epochs if row.val_accuracy is not None]
        return max(scores, default=None)


def trial_name(number: int) -> str:
    """Return the name of a trial in tables and on disk: 7 -> t0007."""
    return f"t{number:04d}"


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the best trial by merit of those that can win: the one definition of "best".

    A trial that runs or waits counts by what it has shown.
    """
    return min((t for t in trials if t.can_win), key=lambda t: t.merit, default=None)


def trial_of(frozen: FrozenTrial, epochs: tuple[EpochRow, ...]) -> Trial:
    """Return a trial from Optuna's tables and ours."""
    attrs = frozen.user_attrs
    outcomes: dict[TrialState, Outcome] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.RUNNING: "running",
        TrialState.FAIL: "infeasible" if attrs.get("infeasible") else "failed",
    }
    return Trial(
        number=frozen.number,
        outcome=outcomes[frozen.state],
        reason=attrs.get("reason", ""),
        failure=attrs.get("failure", ""),
        origin=attrs.get("origin", "sampler"),
        configuration=attrs.get("configuration"),
        parameters=attrs.get("parameters"),
        multiply_adds=attrs.get("multiply_adds"),
        refusal=attrs.get("refusal", ""),
        proposal=attrs.get("proposal", {}),
        epochs=epochs,
    )
