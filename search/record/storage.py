"""The database of a study: how it is opened and closed.

It is `study.db` in the study's folder (SQLite), or one that several studies share on a PostgreSQL
server. Whatever goes wrong there later, in our tables or in Optuna's, is raised as StorageError.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from search.record import tables
from search.record.filesystem import network_filesystem
from search.record.storage_failure import Failing
from search.study_error import StorageError

BUSY_SECONDS = 30.0
"""How long a connection waits for another one's write before it gives up."""
LOCKS = 0x66736C6B
"""First key of our advisory locks on a server; the second is a study's id, or 0 for the tables."""
_SERVER = {
    "connect_timeout": 10,  # seconds
    "keepalives_idle": 30,  # one that only holds a lock must not be forgotten on the way
    "client_encoding": "utf8",
    "application_name": "fashion-search",
}


def open_storage(
    folder: Path, url: str | None = None, *, make: bool = False
) -> optuna.storages.RDBStorage:
    """Open the database of the study in `folder`.

    Args:
        folder: Of the study.
        url: Of the server's database; None for the file in the folder.
        make: Make the tables where they are missing.

    Raises:
        StorageError: It cannot be opened; one line that says why.
    """
    failing = Failing(folder, url)
    try:
        storage = _open_file(folder, make) if url is None else _open_server(url, make)
    except Exception as error:
        place = url or folder / "study.db"
        told = failing.error(error) or StorageError(f"{place} cannot be opened: {error}")
        raise told from error
    failing.opened(storage.engine)
    return storage


def engine_of(study: optuna.Study) -> sa.Engine:
    """Return the engine of an open study's database."""
    # `load_study` wraps the storage in a cache that keeps the real one in `_backend`.
    storage: Any = study._storage
    engine: sa.Engine = getattr(storage, "_backend", storage).engine
    return engine


def close_storage(engine: sa.Engine) -> None:
    """Let go of a database; SQLite's log is written into the file, if no reader needs it still."""
    if engine.dialect.name == "sqlite":
        with suppress(StorageError), engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=0")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def _open_file(folder: Path, make: bool) -> optuna.storages.RDBStorage:
    url = sa.URL.create("sqlite", database=str(folder / "study.db"))
    storage = _storage(url, {"timeout": BUSY_SECONDS}, make)
    # WAL: readers never block the writer. It needs memory that all of them share, which machines do
    # not: on a network file system the old journal is slower, and right.
    local = not network_filesystem(folder)
    # NORMAL: a power cut may lose the last commit, never the file's integrity.
    settings = ("journal_mode=WAL", "synchronous=NORMAL")
    if not local:
        settings = ("journal_mode=DELETE", "synchronous=FULL")

    def set_up(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    sa.event.listen(storage.engine, "connect", set_up)
    storage.engine.dispose()  # connections made before do not have the settings
    return storage


def _open_server(url: str, make: bool) -> optuna.storages.RDBStorage:
    place = sa.make_url(url).set(drivername="postgresql+psycopg")
    if not make:
        return _storage(place, _SERVER, make)
    guard = sa.create_engine(place, poolclass=NullPool, connect_args=_SERVER)
    with guard.connect() as connection:  # two that begin at once would both make the tables
        connection.execute(sa.select(sa.func.pg_advisory_lock(LOCKS, 0)))
        return _storage(place, _SERVER, make)


def _storage(url: sa.URL, connect_args: dict[str, Any], make: bool) -> _Storage:
    # Optuna takes braces for fields to fill in.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    return _Storage(text, connect_args, make)


class _Storage(optuna.storages.RDBStorage):
    """Optuna's, that closes its connections when nobody needs it any more."""

    def __init__(self, url: str, connect_args: dict[str, Any], make: bool) -> None:
        try:
            super().__init__(
                url, engine_kwargs={"connect_args": connect_args}, skip_table_creation=not make
            )
            if make:
                tables.metadata.create_all(self.engine)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        weakref.finalize(self, self.engine.dispose)
