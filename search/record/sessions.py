"""Who worked on a study, when and where: how long a search has taken, and whether it goes on.

A session is one process at one stage of a study. It says every few seconds that it is there, so
that what a killed one has spent is known.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from search.record.tables import rows_of, sessions

_SAW = sessions.update().where(sessions.c.id == sa.bindparam("of_session"))


class Sessions:
    """The sessions of one study, and the one of this process."""

    def __init__(self, engine: sa.Engine, study: int) -> None:
        """Read and write those of a study (its id in Optuna's tables)."""
        self._engine, self._study = engine, study
        self._mine: int | None = None

    def start(self, stage: str, *, host: str, pid: int) -> int:
        """Record that a driver works on the study; return the session's id."""
        now = time.time()
        with self._engine.begin() as connection:
            result = connection.execute(
                sessions.insert().values(
                    study=self._study,
                    stage=stage,
                    host=host,
                    pid=pid,
                    started_at=now,
                    seen_at=now,
                )
            )
        key = result.inserted_primary_key
        assert key is not None
        self._mine = int(key[0])
        return self._mine

    def see(self) -> None:
        """Record that the session of this process goes on."""
        with self._engine.begin() as connection:
            self.saw(connection, time.time())

    def saw(self, connection: sa.Connection, now: float) -> None:
        """Record it at Unix time `now`, in a transaction of others."""
        # Only our own session: one that was killed was not seen again.
        connection.execute(_SAW, {"of_session": self._mine, "seen_at": now})

    def end(self, session: int) -> None:
        """Record that a driver left the study in good order."""
        now = time.time()
        with self._engine.begin() as connection:
            connection.execute(
                sessions.update().where(sessions.c.id == session).values(seen_at=now, ended_at=now)
            )

    def close(self, session: int) -> None:
        """Record that a driver is gone which did not say so: it ended where it was last seen."""
        with self._engine.begin() as connection:
            mine = sessions.c.id == session
            connection.execute(sessions.update().where(mine).values(ended_at=sessions.c.seen_at))

    def all(self) -> list[dict[str, Any]]:
        """Return every session, in order."""
        return rows_of(self._engine, sessions, self._study, sessions.c.id)

    def spent_seconds(self, stage: str) -> float:
        """Return the wall seconds that sessions of one stage took, ended well or not."""
        return float(sum(s["seen_at"] - s["started_at"] for s in self.all() if s["stage"] == stage))

    def last_seen(self, stage: str) -> float:
        """Return when the last session of a stage before ours was seen (Unix time), or 0."""
        earlier = [s for s in self.all() if s["stage"] == stage and s["id"] != self._mine]
        return float(earlier[-1]["seen_at"]) if earlier else 0.0
