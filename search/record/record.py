"""What a study did, beside Optuna's own tables in the same database.

Optuna's tables hold each trial's parameters, state, value and intermediate values. These hold the
rest: every epoch's metrics, every attempt with its node, every decision with its reason, every look
at the test set (and every session: `search.record.sessions`). Only the driver writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from model.train import EpochMetrics
from search.propose.upsert import upsert
from search.prune.ladder import Decision
from search.record import tables
from search.record.sessions import Sessions
from search.record.steps import Steps
from search.record.tables import rows_of

EventKind = Literal["proposed", "promoted", "epoch", "ended", "reopened", "extended"]
"""`reopened`: a trial that the end of the budget had ended goes on. `extended`: the budget or the
longest training was raised; of no trial (-1), the reason is what changed (JSON)."""

NO_TRIAL = -1
"""The trial of an event that is of none."""
# Made once: SQLAlchemy takes longer to put a statement together than to have it executed.
_ADD_EVENT, _ADD_DECISION = tables.events.insert(), tables.decisions.insert()
_ADD_ATTEMPT, _OF_ATTEMPT = tables.attempts.insert(), tables.attempts.c
_LAST_ATTEMPTS = (
    sa.select(_OF_ATTEMPT.trial, sa.func.max(_OF_ATTEMPT.attempt))
    .where(_OF_ATTEMPT.study == sa.bindparam("of_study"))
    .group_by(_OF_ATTEMPT.trial)
)
_UPDATE_ATTEMPT = tables.attempts.update().where(
    (_OF_ATTEMPT.study == sa.bindparam("of_study"))
    & (_OF_ATTEMPT.trial == sa.bindparam("of_trial"))
    & (_OF_ATTEMPT.attempt == sa.bindparam("of_attempt"))
)
_METRICS = tuple(field.name for field in fields(EpochMetrics))
_DECISION = tuple(field.name for field in fields(Decision))
_OF_A_FAILURE = ("attempt", "failure", "from_epoch", "reason")


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
    """Of an end, or of an extension."""
    failure: str | None
    """Of an end: the kind of failure; None where it did not fail."""
    at: float
    """Unix time, in seconds."""


class Record:
    """Read and write the tables of one study."""

    def __init__(self, engine: sa.Engine, study: int, sessions: Sessions, steps: Steps) -> None:
        """Read and write those of a study (its id in Optuna's tables)."""
        self._engine, self._study, self._sessions = engine, study, sessions
        self._writing, self._dialect = steps.writing, engine.dialect.name
        self._attempts: dict[int, int] | None = None
        """Trial -> its last attempt; read once."""

    def forget(self) -> None:
        """Read again what was known of the attempts: not all of it was written."""
        self._attempts = None

    def add_event(
        self,
        kind: EventKind,
        trial: int,
        *,
        decision: Decision | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        failure: str | None = None,
    ) -> None:
        """Record that something other than an epoch happened; a promotion with its decision."""
        facts = {"outcome": outcome, "reason": _storable(reason), "failure": failure}
        with self._writing() as connection:
            self._add_event(connection, kind, trial, decision=decision, **facts)

    def add_extension(self, content: str, reopened: Sequence[int]) -> None:
        """Record new settings (JSON), and the trials whose end they take back, in one step."""
        with self._writing() as connection:
            self._add_event(connection, "extended", NO_TRIAL, reason=content)
            for trial in reopened:
                self._add_event(connection, "reopened", trial)

    def add_epoch(
        self,
        trial: int,
        attempt: int,
        metrics: EpochMetrics,
        value: float | None,
        decision: Decision | None = None,
    ) -> EpochRow:
        """Record an epoch together with what was decided on it, in one transaction.

        An epoch recorded before (a trial that went on from an older checkpoint) is replaced; the
        events hold both. `value` is what was judged; None where the training diverged.
        """
        values: dict[str, Any] = {name: _finite(getattr(metrics, name)) for name in _METRICS}
        values |= {"trial": trial, "attempt": attempt, "at": time.time()}
        with self._writing() as connection:
            statement = upsert(self._dialect, tables.epochs, "study", "trial", "epoch")
            connection.execute(statement, values | {"study": self._study})
            self._add_event(
                connection, "epoch", trial, epoch=metrics.epoch, value=value, decision=decision
            )
            self._sessions.saw(connection, values["at"])
        return EpochRow(**values)

    def start_attempt(self, trial: int, *, from_epoch: int) -> int:
        """Record that a trial was handed to a worker; return the attempt's number from 1."""
        with self._writing() as connection:
            if self._attempts is None:
                last = connection.execute(_LAST_ATTEMPTS, {"of_study": self._study})
                self._attempts = {number: attempt for number, attempt in last}
            attempt = self._attempts.get(trial, 0) + 1
            row: dict[str, Any] = {"study": self._study, "trial": trial, "attempt": attempt}
            row |= {"from_epoch": from_epoch, "started_at": time.time()}
            connection.execute(_ADD_ATTEMPT, row)
        self._attempts[trial] = attempt
        return attempt

    def place_attempt(self, trial: int, attempt: int, *, node: str, pid: int) -> None:
        """Record where an attempt runs, and that its training starts now."""
        self._update_attempt(trial, attempt, node=node, pid=pid)

    def end_attempt(
        self, trial: int, attempt: int, *, outcome: str, reason: str, failure: str | None = None
    ) -> None:
        """Record how an attempt ended; `failure` is of which kind it was, if it failed."""
        self._update_attempt(
            trial,
            attempt,
            ended_at=time.time(),
            outcome=outcome,
            reason=_storable(reason),
            failure=failure,
        )

    def close_attempts(self, reason: str) -> None:
        """End, as stopped, the attempts that a killed driver left open, where it was last seen."""
        alive = self._sessions.last_seen("search")
        attempts = tables.attempts.c
        seen = sa.case((attempts.started_at > alive, attempts.started_at), else_=alive)
        with self._writing() as connection:
            connection.execute(
                tables.attempts.update()
                .where((attempts.study == self._study) & attempts.ended_at.is_(None))
                .values(ended_at=seen, outcome="stopped", reason=reason)
            )

    def add_look(self, *, reason: str, models: str, broke_seal: bool) -> int:
        """Record that the test set is about to be opened; return the look's id.

        `models` holds the SHA-256 of each model (JSON).
        """
        with self._writing() as connection:
            result = connection.execute(
                tables.looks.insert().values(
                    study=self._study,
                    at=time.time(),
                    reason=_storable(reason),
                    models=models,
                    broke_seal=broke_seal,
                )
            )
        return _new_key(result)

    def end_look(self, look: int, *, result: str) -> None:
        """Record the numbers that a look showed (JSON)."""
        with self._writing() as connection:
            mine = tables.looks.c.id == look
            connection.execute(tables.looks.update().where(mine).values(result=result))

    def epochs(self, trial: int | None = None) -> list[EpochRow]:
        """Return every epoch, by trial and epoch; with `trial`, of that one only."""
        epochs = tables.epochs.c
        where = None if trial is None else epochs.trial == trial
        rows = self._rows(tables.epochs, epochs.trial, epochs.epoch, where=where)
        return [EpochRow(**row) for row in rows]

    def events(self, kind: EventKind | None = None) -> list[EventRow]:
        """Return all that happened, in order: what a search does next depends on nothing else.

        With `kind`, only events of that kind.
        """
        where = None if kind is None else tables.events.c.kind == kind
        rows = self._rows(tables.events, tables.events.c.id, where=where)
        return [EventRow(**row) for row in rows]

    def decisions(self) -> list[dict[str, Any]]:
        """Return every decision in the order they were made."""
        return self._rows(tables.decisions, tables.decisions.c.id)

    def attempts(self) -> list[dict[str, Any]]:
        """Return every attempt, by trial and attempt."""
        return self._rows(tables.attempts, tables.attempts.c.trial, tables.attempts.c.attempt)

    def failures(self, trial: int) -> list[dict[str, Any]]:
        """Return the attempts of a trial that failed, in order.

        Each has `attempt`, `failure` (its kind), `from_epoch` and `reason`.
        """
        attempts = tables.attempts.c
        failed = (attempts.trial == trial) & attempts.failure.is_not(None)
        rows = self._rows(tables.attempts, attempts.attempt, where=failed)
        return [{key: row[key] for key in _OF_A_FAILURE} for row in rows]

    def looks(self) -> list[dict[str, Any]]:
        """Return every look at the test set, in order."""
        return self._rows(tables.looks, tables.looks.c.id)

    def _update_attempt(self, trial: int, attempt: int, **values: Any) -> None:
        this = {"of_study": self._study, "of_trial": trial, "of_attempt": attempt}
        with self._writing() as connection:
            connection.execute(_UPDATE_ATTEMPT, this | values)

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
        row = {"study": self._study, "kind": kind, "trial": trial, "at": now}
        result = connection.execute(_ADD_EVENT, row | values)
        if decision is not None:
            epoch = values.get("epoch") or decision.rung
            place = {"study": self._study, "event": _new_key(result), "epoch": epoch, "at": now}
            about = {name: getattr(decision, name) for name in _DECISION}
            connection.execute(_ADD_DECISION, about | place)

    def _rows(
        self,
        table: sa.Table,
        *order: sa.ColumnElement[Any],
        where: sa.ColumnElement[bool] | None = None,
    ) -> list[dict[str, Any]]:
        return rows_of(self._engine, table, self._study, *order, where=where)


def _new_key(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def _finite(value: Any) -> Any:
    # SQLite has no NaN; the trial's end reason says that a value was not finite.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _storable(text: str | None) -> str | None:
    # A traceback may quote anything: no database takes half a surrogate pair, PostgreSQL no NUL.
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
