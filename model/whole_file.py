"""Write a file whole or not at all, so that it also survives a power cut. No torch here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: bytes) -> None:
    """Write a file and its folder: a reader finds the old one or the new one, never half of it.

    When this returns, the file's content and its name are on the disk.

    Raises:
        OSError: As the system gave it (`errno` tells a full disk). What was at `path` still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _reach_the_disk(path.parent)


def _reach_the_disk(folder: Path) -> None:
    """Wait until a renaming in `folder` would survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise  # these three: a file system that knows no such thing for folders
    finally:
        os.close(handle)
