"""Is the database of a study in order? A file is read past Optuna, which may fail to open it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from data.plain_file import open_plain
from search.record import tables
from search.record.filesystem import network_filesystem
from search.record.storage import engine_of
from search.record.study import Study
from search.words import one_line, plural

_LARGE = 200 << 20  # bytes; beyond, the check leaves out whether indices say what the tables do
_MOST = 5  # messages of SQLite that are repeated
_MODES = {b"\1": "delete", b"\2": "wal"}
_MODE_AT = 18  # byte of SQLite's header
_OPTUNAS = {
    *("studies", "study_directions", "study_user_attributes"),
    *("trials", "trial_params", "trial_user_attributes"),
    *("trial_values", "trial_intermediate_values"),
}
"""Tables of Optuna that hold a study."""


@contextmanager
def log_kept(folder: Path) -> Iterator[None]:
    """Keep SQLite from moving the log that a killed driver left into the database meanwhile.

    The last one to close a database does that, and here it is one who may only read.
    """
    log = folder / "study.db-wal"
    if not log.is_file() or not log.stat().st_size:
        yield
        return
    with closing(_reader(folder)) as connection:
        with suppress(sqlite3.Error):  # damaged: whoever opens it says so
            connection.execute("SELECT count(*) FROM sqlite_master")
        yield


def wrong_journal(folder: Path) -> str:
    """Return how study.db keeps its journal, such as `delete`; empty where it is as it should be.

    Whoever opens the study sets it right.
    """
    try:
        with open_plain(folder / "study.db") as file:
            file.seek(_MODE_AT)
            mode = _MODES.get(file.read(1), "")
    except OSError:  # whoever opens the study says so
        return ""
    return "" if mode == ("delete" if network_filesystem(folder) else "wal") else mode


def damage_of(folder: Path) -> tuple[str, bool]:
    """Return what SQLite finds damaged in study.db, or an empty string; and if in indices alone."""
    path = folder / "study.db"
    if not path.is_file():
        return "", False
    check = "quick_check" if path.stat().st_size > _LARGE else "integrity_check"
    try:
        with closing(_reader(folder)) as connection:
            rows = connection.execute(f"PRAGMA {check}({_MOST})").fetchall()
    except sqlite3.Error as error:
        return one_line(str(error)), False
    said = [one_line(str(text)) for (text,) in rows]
    if said == ["ok"]:
        return "", False
    return "; ".join(said), all(" index " in f"{text} " for text in said)


def rebuild_indices(folder: Path) -> None:
    """Make every index of study.db again from its table.

    Raises:
        sqlite3.Error: The tables themselves are damaged, or do not allow it.
    """
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        connection.execute("REINDEX")
        connection.commit()


def salvage(folder: Path) -> str:
    """Return, in one line, what of a damaged study.db can still be read, and how to get it."""
    try:
        with closing(_reader(folder)) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            names = [str(name) for (name,) in connection.execute(query)]
            lost = [name for name in names if not _is_whole(connection, name)]
    except sqlite3.Error:
        names, lost = [], []
    if not names:
        return "nothing of it can be read"
    if lost:
        return f"{len(lost)} of its {len(names)} tables cannot be read: {', '.join(lost[:_MOST])}"
    whole = f"all its {plural(len(names), 'table')} can still be read to the end"
    return f"{whole}: sqlite3 study.db .recover | sqlite3 copy.db makes a copy to check"


def missing_tables(study: Study) -> list[str]:
    """Return the tables of a study's database, Optuna's and ours, that are not there."""
    there = set(sa.inspect(engine_of(study.optuna)).get_table_names())
    return sorted((_OPTUNAS | set(tables.metadata.tables)) - there)


def _is_whole(connection: sqlite3.Connection, table: str) -> bool:
    try:
        for _ in connection.execute(f'SELECT * FROM "{table}" NOT INDEXED'):
            pass
    except sqlite3.Error:
        return False
    return True


def _reader(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{(folder / 'study.db').resolve().as_uri()}?mode=ro", uri=True)
