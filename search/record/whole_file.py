"""Files that are replaced whole: a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.study_error import StudyError


def write_text(path: Path, text: str) -> None:
    """Write a file, or leave the old one as it is.

    Raises:
        StudyError: It cannot be written, such as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the new name without its content
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that a disk, or what one may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError) -> StudyError:
    """Return what people are told of a file that could not be written."""
    if is_disk_full(error):
        return StudyError(
            f"the disk of {path.parent} is full: {path.name} is not written; free some space"
            " and try again"
        )
    return StudyError(f"{path} cannot be written: {error.strerror}")


def replace_folder(new: Path, place: Path) -> None:
    """Put a folder in the place of another one, which is there until the new one is."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")
