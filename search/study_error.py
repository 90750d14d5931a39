"""What people are told of a study that cannot be used as asked."""

from __future__ import annotations

from data.one_line import OneLineError


class StudyError(OneLineError):
    """A study that cannot be used as asked: one line that says why and what to do."""


class StorageError(StudyError):
    """The database of a study could not be read or written. What was committed before is there."""
