"""What is said when the database of a study cannot be opened, read or written."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from data.one_line import one_line
from search.study_error import StorageError

_LITTLE = 1 << 20  # bytes free, below which SQLite's "disk I/O error" means a full disk
_MADE_NOT = "it was not made to its end, or by another program; remove the folder and begin again"
_REFUSED = (
    ("does not exist", "make it on the server (createdb, createuser), or mend `storage`"),
    ("password", "give the right one by PGPASSWORD or ~/.pgpass"),
    ("pg_hba.conf", "let the user in there"),
)
"""What a server says when it lets nobody in, and what to do."""


class Failing:
    """Turns the errors of one study's database into one line each."""

    def __init__(self, folder: Path, url: str | None) -> None:
        """Speak of the database at `url`, or of `study.db` in the study's folder."""
        self._folder, self._url = folder, url
        self._next, self._lost = "and try again", ""

    def opened(self, engine: sa.Engine) -> None:
        """From now on, make the engine raise StorageError instead of what SQLAlchemy would."""
        self._next = f"then `resume {self._folder.name}`"
        sa.event.listen(engine, "handle_error", self._translated, retval=True)
        if self._url is not None:
            sa.event.listen(engine, "do_connect", self._stay_away)

    def error(self, error: BaseException) -> StorageError | None:
        """Return what an error of a driver of databases means, or None where it is no such one.

        What the caller has done wrong, such as a row that is there already, stays as it is.
        """
        for cause in _causes(error):
            if isinstance(cause, sqlite3.Error):
                line = self._of_file(cause)
            elif type(cause).__module__.startswith("psycopg"):
                line = self._of_server(cause)
            elif isinstance(cause, ImportError) and self._url is not None:
                line = f'{self._url} needs a driver: pip install "psycopg[binary]"'
            else:
                continue
            return StorageError(line) if line else None
        return None

    def _translated(self, context: sa.engine.ExceptionContext) -> BaseException | None:
        error = self.error(context.original_exception)
        if context.is_disconnect and self._url is not None:
            self._lost = str(error)
        return error

    def _stay_away(self, *_: Any) -> None:
        # The lock on the study went with a lost connection: another driver may have begun.
        if self._lost:
            raise StorageError(self._lost)

    def _of_file(self, error: sqlite3.Error) -> str:
        path = self._folder / "study.db"
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is where it happened
        full = kind == sqlite3.SQLITE_FULL
        if kind == sqlite3.SQLITE_IOERR:
            full = shutil.disk_usage(self._folder).free < _LITTLE
        if full:
            return f"the disk of {self._folder} is full: free some space, {self._next}"
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"{path} is locked by another program that writes to it: stop that, {self._next}"
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return f"{path} cannot be read: {error}; put a copy back if there is one"
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return f"{path} cannot be written: {error}; see who owns it"
        if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            return f"{path} cannot be used: {error}; see whether its disk is in order, {self._next}"
        if kind == 0 and isinstance(error, sqlite3.OperationalError):  # of Python, about the text
            return f"{path} cannot be read: {error}; put a copy back if there is one"
        if str(error).startswith(("no such table", "no such column")):
            return f"{path} cannot be read: {error}; {_MADE_NOT}"
        return ""

    def _of_server(self, error: BaseException) -> str:
        state: str = getattr(error, "sqlstate", None) or ""
        said = _said(error)
        if state.startswith("53"):  # insufficient resources
            return f"{self._url} is at its limit: {said}; see to the server, {self._next}"
        if state == "42501":
            return f"{self._url} cannot be written: {said}; grant the user CREATE on the schema"
        if state in ("42P01", "42703"):
            return f"{self._url} cannot be read: {said}; {_MADE_NOT}"
        if not state or state.startswith(("08", "28", "3D", "57P")):
            for words, remedy in _REFUSED:
                if words in said:
                    return f"{self._url} cannot be opened: {said}; {remedy}"
            return f"{self._url} cannot be reached: {said}; see to the server, {self._next}"
        if type(error).__name__ in ("OperationalError", "InternalError"):
            return f"{self._url} cannot be used: {said}; see to the server, {self._next}"
        return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__


def _said(error: BaseException) -> str:
    # The server's own words, without where it was tried and what else might be looked at.
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return one_line(text.rpartition("FATAL:")[2].rpartition("failed: ")[2] or text)
