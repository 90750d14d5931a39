"""What a study did, beside Optuna's own tables in the same database.

Optuna's tables hold each trial's parameters, state, value and intermediate values. These hold the
rest: every epoch's metrics, every attempt with its node, every decision with its reason, every look
at the test set, every session. Only the driver writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from model.train import EpochMetrics
from search.asha import Decision

_metadata = sa.MetaData()

_epochs = sa.Table(
    "fs_epoch",
    _metadata,
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("train_loss", sa.Float),
    sa.Column("train_accuracy", sa.Float),
    sa.Column("val_loss", sa.Float),
    sa.Column("val_accuracy", sa.Float),
    sa.Column("learning_rate", sa.Float),
    sa.Column("images_per_second", sa.Float),
    sa.Column("seconds", sa.Float),
    sa.Column("at", sa.Float, nullable=False),
)
_attempts = sa.Table(
    "fs_attempt",
    _metadata,
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("from_epoch", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("node", sa.String(255)),
    sa.Column("pid", sa.Integer),
    sa.Column("outcome", sa.String(32)),
    sa.Column("reason", sa.Text),
)
_decisions = sa.Table(
    "fs_decision",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("rung", sa.Integer, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("cutoff", sa.Float),
    sa.Column("rank", sa.Integer),
    sa.Column("competitors", sa.Integer),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
_looks = sa.Table(
    "fs_look",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("broke_seal", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text),
)
_sessions = sa.Table(
    "fs_session",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
)


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


class Record:
    """Read and write the tables of one study."""

    def __init__(self, engine: sa.Engine) -> None:
        """Create the tables where they are missing; a SQLite file is put in WAL mode."""
        self._engine = engine
        self._session: int | None = None
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _on_sqlite_connect)
            engine.dispose()  # connections made before do not have the settings
        _metadata.create_all(engine)

    def add_epoch(
        self, trial: int, attempt: int, metrics: EpochMetrics, decisions: Iterable[Decision] = ()
    ) -> None:
        """Record an epoch together with what was decided on it, in one transaction.

        An epoch recorded before (a trial that went on from an older checkpoint) is replaced.
        """
        now = time.time()
        row = {"trial": trial, "attempt": attempt, "at": now}
        row |= {name: _finite(value) for name, value in asdict(metrics).items()}
        with self._engine.begin() as connection:
            connection.execute(
                _epochs.delete().where(
                    (_epochs.c.trial == trial) & (_epochs.c.epoch == metrics.epoch)
                )
            )
            connection.execute(_epochs.insert().values(row))
            for decision in decisions:
                connection.execute(
                    _decisions.insert().values(
                        trial=trial, epoch=metrics.epoch, at=now, **asdict(decision)
                    )
                )
            # Only our own session: one that was killed was not seen again.
            connection.execute(
                _sessions.update().where(_sessions.c.id == self._session).values(seen_at=now)
            )

    def start_attempt(self, trial: int, *, from_epoch: int) -> int:
        """Record that a trial was handed to a worker; return the attempt's number from 1."""
        with self._engine.begin() as connection:
            last = connection.scalar(
                sa.select(sa.func.max(_attempts.c.attempt)).where(_attempts.c.trial == trial)
            )
            attempt = (last or 0) + 1
            connection.execute(
                _attempts.insert().values(
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
        """End, as stopped, the attempts that a killed driver left open, where last seen."""
        seen = sa.func.coalesce(
            sa.select(sa.func.max(_epochs.c.at))
            .where(
                (_epochs.c.trial == _attempts.c.trial) & (_epochs.c.attempt == _attempts.c.attempt)
            )
            .scalar_subquery(),
            _attempts.c.started_at,
        )
        with self._engine.begin() as connection:
            connection.execute(
                _attempts.update()
                .where(_attempts.c.ended_at.is_(None))
                .values(ended_at=seen, outcome="stopped", reason=reason)
            )

    def add_look(self, *, reason: str, models: str, broke_seal: bool) -> int:
        """Record that the test set is about to be opened; return the look's id.

        `models` holds the SHA-256 of each model (JSON).
        """
        with self._engine.begin() as connection:
            result = connection.execute(
                _looks.insert().values(
                    at=time.time(), reason=reason, models=models, broke_seal=broke_seal
                )
            )
        return _new_key(result)

    def end_look(self, look: int, *, result: str) -> None:
        """Record the numbers that a look showed (JSON)."""
        with self._engine.begin() as connection:
            connection.execute(_looks.update().where(_looks.c.id == look).values(result=result))

    def start_session(self, stage: str, *, host: str, pid: int) -> int:
        """Record that a driver works on the study; return the session's id."""
        now = time.time()
        with self._engine.begin() as connection:
            result = connection.execute(
                _sessions.insert().values(
                    stage=stage, host=host, pid=pid, started_at=now, seen_at=now
                )
            )
        key = result.inserted_primary_key
        assert key is not None
        self._session = int(key[0])
        return self._session

    def end_session(self, session: int) -> None:
        """Record that a driver left the study in good order."""
        now = time.time()
        with self._engine.begin() as connection:
            connection.execute(
                _sessions.update()
                .where(_sessions.c.id == session)
                .values(seen_at=now, ended_at=now)
            )

    def epochs(self, trial: int | None = None) -> list[EpochRow]:
        """Return every epoch, by trial and epoch; with `trial`, of that one only."""
        query = sa.select(_epochs).order_by(_epochs.c.trial, _epochs.c.epoch)
        if trial is not None:
            query = query.where(_epochs.c.trial == trial)
        return [EpochRow(**row) for row in self._rows(query)]

    def decisions(self) -> list[dict[str, Any]]:
        """Return every decision in the order they were made."""
        return [dict(row) for row in self._rows(sa.select(_decisions).order_by(_decisions.c.id))]

    def attempts(self) -> list[dict[str, Any]]:
        """Return every attempt, by trial and attempt."""
        order = (_attempts.c.trial, _attempts.c.attempt)
        return [dict(row) for row in self._rows(sa.select(_attempts).order_by(*order))]

    def looks(self) -> list[dict[str, Any]]:
        """Return every look at the test set, in order."""
        return [dict(row) for row in self._rows(sa.select(_looks).order_by(_looks.c.id))]

    def sessions(self) -> list[dict[str, Any]]:
        """Return every session, in order."""
        return [dict(row) for row in self._rows(sa.select(_sessions).order_by(_sessions.c.id))]

    def spent_seconds(self, stage: str) -> float:
        """Return the wall seconds that sessions of one stage took, ended well or not."""
        return float(
            sum(s["seen_at"] - s["started_at"] for s in self.sessions() if s["stage"] == stage)
        )

    def _update_attempt(self, trial: int, attempt: int, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                _attempts.update()
                .where((_attempts.c.trial == trial) & (_attempts.c.attempt == attempt))
                .values(**values)
            )

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
