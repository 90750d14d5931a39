"""What a driver hands out and tells: the words between it, its workers and those who watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from model.config import Configuration
from model.train import EpochMetrics
from search.prune.ladder import Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """A trial handed to a worker."""

    trial: int
    attempt: int
    configuration: Configuration
    seed: int
    folder: Path
    """Of the trial's checkpoints, which are written there, and gone on from where there are any."""
    from_epoch: int = 0
    """Epochs of the trial that the record holds."""


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
        """Note that a trial ended; only trials that started are told of."""

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Note that an attempt failed, of which kind and why; the trial goes on later."""

    def stopping(self, reason: str) -> None:
        """Note that the search is about to stop. A signal's handler calls this: take no lock."""
