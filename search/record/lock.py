"""Who works on a study: one process at a time, with a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a command that shows a study should answer at once
    import sqlalchemy as sa

    from search.record.study import Study


@contextmanager
def hold(study: Study) -> Iterator[None]:
    """Hold a study; readers need no lock. Its database is closed at the end.

    The lock is the kernel's (flock on `.lock`): a process that is killed leaves none behind. The
    file's text says who holds it, for the one who is refused. Of a database on a server, the server
    holds another one, since the folder may have been copied to other machines.

    Raises:
        StudyError: Another process works on the study.
    """
    from search.record.storage import close_storage, engine_of
    from search.study_error import StudyError

    engine = engine_of(study.optuna)
    with (study.folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StudyError(_refusal(study, holder)) from None
        try:
            with _held_on_server(study, engine):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()} since {_clock()}\n")
                file.flush()
                yield
        finally:
            close_storage(engine)


def is_alive(study: Study) -> bool:
    """Return whether a driver works on the study, as far as can be told from this machine."""
    sessions = study.sessions.all()
    if not sessions or sessions[-1]["ended_at"] is not None:
        return False
    from search.record.storage import engine_of

    engine = engine_of(study.optuna)
    if engine.dialect.name != "sqlite":
        return _is_held_on_server(study, engine)
    last = sessions[-1]
    if last["host"] != platform.node():
        return True
    import psutil

    try:  # another process may have been given the same number since
        return bool(psutil.Process(last["pid"]).create_time() <= last["started_at"] + 1)
    except psutil.Error:
        return False


def _refusal(study: Study, holder: str) -> str:
    return f"{study.name} is being worked on by {holder}; wait for it, or `stop {study.name}`"


def _clock(at: float | None = None) -> str:
    when = datetime.now() if at is None else datetime.fromtimestamp(at)
    return f"{when:%Y-%m-%d %H:%M:%S}"


@contextmanager
def _held_on_server(study: Study, engine: sa.Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        yield
        return
    import sqlalchemy as sa

    from search.record.storage import LOCKS
    from search.study_error import StorageError, StudyError

    key = (LOCKS, study.optuna._study_id)
    with engine.connect() as connection:  # the lock is this connection's, and ends with it
        got = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(*key)))
        connection.commit()
        if not got:
            raise StudyError(_refusal(study, who_works(study)))
        try:
            yield
        finally:
            with suppress(StorageError):  # lost: whoever holds it had to be told already
                connection.execute(sa.select(sa.func.pg_advisory_unlock(*key)))
                connection.commit()


def who_works(study: Study) -> str:
    """Return who works on a study that somebody works on, by its record."""
    last: dict[str, Any] = next(reversed(study.sessions.all()), {})
    if not last or last["ended_at"] is not None:  # it holds the study, and has not begun
        return "another process"
    return f"process {last['pid']} on {last['host']} since {_clock(last['started_at'])}"


def _is_held_on_server(study: Study, engine: sa.Engine) -> bool:
    import sqlalchemy as sa

    from search.record.storage import LOCKS

    query = sa.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :ours"
        " AND objid = :study AND granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine.connect() as connection:
        found = connection.scalar(query, {"ours": LOCKS, "study": study.optuna._study_id})
    return bool(found)
