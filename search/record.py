"""What a study did, beside Optuna's own tables in the same database.

Optuna's tables hold each trial's parameters, state, value and intermediate values. These hold the
rest: every epoch's metrics, every attempt with its node, every decision with its reason, every look
at the test set, every session. Only the driver writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from model.train import EpochMetrics
from search import tables
from search.ladder import Decision

EventKind = Literal["proposed", "promoted", "epoch", "ended"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One epoch of one trial, as recorded. Values that were not finite are None."""

    trial: int
    epoch: int
    attempt: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float | None
    images_per_second: float | None
    seconds: float | None
    at: float
    """Unix time, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRow:
    """One thing that happened in a search."""

    id: int
    """Rises from event to event."""
    kind: EventKind
    trial: int
    epoch: int | None
    """Of an epoch event."""
    value: float | None
    """Of an epoch event: the validation accuracy that was judged; None where it diverged."""
    outcome: str | None
    """Of an end."""
    reason: str | None
    """Of an end."""
    at: float
    """Unix time, in seconds."""


class Record:
    """Read and write the tables of one study."""

    def __init__(self, engine: sa.Engine) -> None:
        """Create the tables where they are missing; a SQLite file is put in WAL mode."""
        self._engine = engine
        self._session: int | None = None
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _on_sqlite_connect)
            engine.dispose()  # connections made before do not have the settings
        tables.metadata.create_all(engine)

    def add_event(
        self,
        kind: EventKind,
        trial: int,
        *,
        decision: Decision | None = None,
        outcome: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Record that a trial was proposed, promoted (with the decision) or ended."""
        with self._engine.begin() as connection:
            self._add_event(
                connection, kind, trial, decision=decision, outcome=outcome, reason=reason
            )

    def add_epoch(
        self,
        trial: int,
        attempt: int,
        metrics: EpochMetrics,
        value: float | None,
        decision: Decision | None = None,
    ) -> None:
        """Record an epoch together with what was decided on it, in one transaction.

        An epoch recorded before (a trial that went on from an older checkpoint) is replaced; the
        events hold both. `value` is what was judged; None where the training diverged.
        """
        now = time.time()
        row = {"trial": trial, "attempt": attempt, "at": now}
        row |= {name: _finite(number) for name, number in asdict(metrics).items()}
        epochs = tables.epochs
        with self._engine.begin() as connection:
            same = (epochs.c.trial == trial) & (epochs.c.epoch == metrics.epoch)
            connection.execute(epochs.delete().where(same))
            connection.execute(epochs.insert().values(row))
            self._add_event(
                connection, "epoch", trial, epoch=metrics.epoch, value=value, decision=decision
            )
            self._see(connection, now)

    def start_attempt(self, trial: int, *, from_epoch: int) -> int:
        """Record that a trial was handed to a worker; return the attempt's number from 1."""
        with self._engine.begin() as connection:
            attempts = tables.attempts.c
            last = connection.scalar(
                sa.select(sa.func.max(attempts.attempt)).where(attempts.trial == trial)
            )
            attempt = (last or 0) + 1
            connection.execute(
                tables.attempts.insert().values(
                    trial=trial, attempt=attempt, from_epoch=from_epoch, started_at=time.time()
                )
            )
        return attempt

    def place_attempt(self, trial: int, attempt: int, *, node: str, pid: int) -> None:
        """Record where an attempt runs, and that its training starts now."""
        self._update_attempt(trial, attempt, node=node, pid=pid)

    def end_attempt(self, trial: int, attempt: int, *, outcome: str, reason: str) -> None:
        """Record how an attempt ended."""
        self._update_attempt(trial, attempt, ended_at=time.time(), outcome=outcome, reason=reason)

    def close_attempts(self, reason: str) -> None:
        """End, as stopped, the attempts that a killed driver left open, where it was last seen."""
        earlier = [
            s for s in self.sessions() if s["stage"] == "search" and s["id"] != self._session
        ]
        alive = earlier[-1]["seen_at"] if earlier else 0.0
        started = tables.attempts.c.started_at
        seen = sa.case((started > alive, started), else_=alive)
        with self._engine.begin() as connection:
            connection.execute(
                tables.attempts.update()
                .where(tables.attempts.c.ended_at.is_(None))
                .values(ended_at=seen, outcome="stopped", reason=reason)
            )

    def add_look(self, *, reason: str, models: str, broke_seal: bool) -> int:
        """Record that the test set is about to be opened; return the look's id.

        `models` holds the SHA-256 of each model (JSON).
        """
        with self._engine.begin() as connection:
            result = connection.execute(
                tables.looks.insert().values(
                    at=time.time(), reason=reason, models=models, broke_seal=broke_seal
                )
            )
        return _new_key(result)

    def end_look(self, look: int, *, result: str) -> None:
        """Record the numbers that a look showed (JSON)."""
        with self._engine.begin() as connection:
            mine = tables.looks.c.id == look
            connection.execute(tables.looks.update().where(mine).values(result=result))

    def start_session(self, stage: str, *, host: str, pid: int) -> int:
        """Record that a driver works on the study; return the session's id."""
        now = time.time()
        with self._engine.begin() as connection:
            result = connection.execute(
                tables.sessions.insert().values(
                    stage=stage, host=host, pid=pid, started_at=now, seen_at=now
                )
            )
        key = result.inserted_primary_key
        assert key is not None
        self._session = int(key[0])
        return self._session

    def see(self) -> None:
        """Record that the session of this process goes on: what a killed one has spent is known."""
        with self._engine.begin() as connection:
            self._see(connection, time.time())

    def end_session(self, session: int) -> None:
        """Record that a driver left the study in good order."""
        now = time.time()
        with self._engine.begin() as connection:
            connection.execute(
                tables.sessions.update()
                .where(tables.sessions.c.id == session)
                .values(seen_at=now, ended_at=now)
            )

    def epochs(self, trial: int | None = None) -> list[EpochRow]:
        """Return every epoch, by trial and epoch; with `trial`, of that one only."""
        query = sa.select(tables.epochs).order_by(tables.epochs.c.trial, tables.epochs.c.epoch)
        if trial is not None:
            query = query.where(tables.epochs.c.trial == trial)
        return [EpochRow(**row) for row in self._rows(query)]

    def events(self) -> list[EventRow]:
        """Return all that happened, in order: what a search does next depends on nothing else."""
        query = sa.select(tables.events).order_by(tables.events.c.id)
        return [EventRow(**row) for row in self._rows(query)]

    def decisions(self) -> list[dict[str, Any]]:
        """Return every decision in the order they were made."""
        return self._in_order(tables.decisions.c.id)

    def attempts(self) -> list[dict[str, Any]]:
        """Return every attempt, by trial and attempt."""
        return self._in_order(tables.attempts.c.trial, tables.attempts.c.attempt)

    def looks(self) -> list[dict[str, Any]]:
        """Return every look at the test set, in order."""
        return self._in_order(tables.looks.c.id)

    def sessions(self) -> list[dict[str, Any]]:
        """Return every session, in order."""
        return self._in_order(tables.sessions.c.id)

    def spent_seconds(self, stage: str) -> float:
        """Return the wall seconds that sessions of one stage took, ended well or not."""
        return float(
            sum(s["seen_at"] - s["started_at"] for s in self.sessions() if s["stage"] == stage)
        )

    def _see(self, connection: sa.Connection, now: float) -> None:
        # Only our own session: one that was killed was not seen again.
        mine = tables.sessions.c.id == self._session
        connection.execute(tables.sessions.update().where(mine).values(seen_at=now))

    def _update_attempt(self, trial: int, attempt: int, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                tables.attempts.update()
                .where((tables.attempts.c.trial == trial) & (tables.attempts.c.attempt == attempt))
                .values(**values)
            )

    def _add_event(
        self,
        connection: sa.Connection,
        kind: EventKind,
        trial: int,
        *,
        decision: Decision | None = None,
        **values: Any,
    ) -> None:
        now = time.time()
        result = connection.execute(
            tables.events.insert().values(kind=kind, trial=trial, at=now, **values)
        )
        if decision is not None:
            epoch = values.get("epoch") or decision.rung
            row = asdict(decision) | {"event": _new_key(result), "epoch": epoch, "at": now}
            connection.execute(tables.decisions.insert().values(row))

    def _in_order(self, *columns: sa.Column[Any]) -> list[dict[str, Any]]:
        query = sa.select(columns[0].table).order_by(*columns)
        return [dict(row) for row in self._rows(query)]

    def _rows(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _new_key(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def _finite(value: Any) -> Any:
    # SQLite has no NaN; the trial's end reason says that a value was not finite.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _on_sqlite_connect(connection: Any, _: object) -> None:
    # WAL: readers never block the writer. NORMAL: a power cut may lose the last commit, never the
    # file's integrity.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()
