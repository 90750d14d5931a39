"""What people are told of a study that cannot be used as asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.one_line import OneLineError


class StudyError(OneLineError):
    """A study that cannot be used as asked: one line that says why and what to do."""


class StorageError(StudyError):
    """The database of a study could not be read or written. What was committed before is there."""


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Say that the record is damaged where a value of it is none that was written.

    SQLite notices a torn page, and not a flipped bit in a text.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise strange(folder, str(error)) from None


def strange(folder: Path, what: str) -> StorageError:
    """Return what people are told of a value in the record that nobody has written."""
    return StorageError(
        f"the record of {folder} holds what was never written ({what}); put a copy back if there"
        f" is one, or see what `doctor {folder.name}` says"
    )
