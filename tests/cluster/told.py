"""What a study's record says of its trials, read as anyone could: with SQLite alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt at a trial, and the epochs that it has trained."""

    trial: int
    attempt: int
    node: str
    from_epoch: int
    """The epoch of the checkpoint that it went on from; 0 for a fresh start."""
    failure: str | None
    started_at: float
    """Unix time at which it was handed out."""
    ended_at: float | None
    epochs: tuple[int, ...]


def attempts(folder: Path) -> list[Attempt]:
    """Return all attempts of a study, by trial; none while there is no record."""
    if not (folder / "study.db").exists():
        return []
    try:
        rows = _rows(
            folder, "SELECT trial, attempt, node, from_epoch, failure, started_at, ended_at"
        )
        trained = _rows(folder, "SELECT trial, attempt, epoch", "fs_epoch")
    except sqlite3.OperationalError:
        return []  # the driver is just making it
    epochs: dict[tuple[int, int], list[int]] = {}
    for trial, attempt, epoch in trained:
        epochs.setdefault((trial, attempt), []).append(epoch)
    return [
        Attempt(
            trial=trial,
            attempt=attempt,
            node=node or "",
            from_epoch=start,
            failure=failure,
            started_at=started_at,
            ended_at=ended_at,
            epochs=tuple(sorted(epochs.get((trial, attempt), []))),
        )
        for trial, attempt, node, start, failure, started_at, ended_at in rows
    ]


def busy_nodes(folder: Path) -> dict[str, int]:
    """Return how many epochs each node has trained, by the name that attempts give it."""
    found: Counter[str] = Counter()
    for attempt in attempts(folder):
        found[attempt.node] += len(attempt.epochs)
    return {name: count for name, count in found.items() if count}


def training_seconds(folder: Path) -> float:
    """Return how long all epochs took, in seconds, as their workers measured them."""
    return float(sum(row[0] for row in _rows(folder, "SELECT seconds", "fs_epoch")))


def first_epoch_at(folder: Path) -> float:
    """Return when the first epoch was told, in Unix time."""
    return float(min(row[0] for row in _rows(folder, "SELECT at", "fs_epoch")))


def check_nothing_lost_or_doubled(folder: Path, trials: int, max_epochs: int) -> None:
    """Assert that the study did exactly what its budget says, each epoch of each trial once."""
    numbers = [row[0] for row in _rows(folder, "SELECT number", "trials")]
    assert sorted(numbers) == list(range(trials)), "every trial, each once"
    states = Counter(row[0] for row in _rows(folder, "SELECT state", "trials"))
    assert set(states) <= {"COMPLETE", "PRUNED"}, states
    told = attempts(folder)
    assert all(attempt.ended_at is not None for attempt in told), "no attempt is left open"
    trained = len(_rows(folder, "SELECT trial, epoch", "fs_epoch"))
    assert sum(len(attempt.epochs) for attempt in told) == trained, "every epoch has an attempt"
    for number in numbers:
        mine = sorted((a for a in told if a.trial == number), key=lambda each: each.attempt)
        assert [each.attempt for each in mine] == list(range(mine[0].attempt, len(mine) + 1))
        epochs = [epoch for each in mine for epoch in each.epochs]
        assert epochs == list(range(1, len(epochs) + 1)), f"trial {number} trained {epochs}"
        assert 1 <= len(epochs) <= max_epochs
        done = 0
        for each in mine:
            assert each.from_epoch == done, f"trial {number} went on from {each.from_epoch}"
            done += len(each.epochs)


def _rows(folder: Path, select: str, table: str = "fs_attempt") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True)) as record:
        return sorted(record.execute(f"{select} FROM {table}"), key=lambda row: row[:2])
