"""One process at a time works on a study: a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.study import StudyError


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the study in `folder`; readers need no lock.

    The lock is the kernel's (flock on `.lock`): a process that is killed leaves none behind. The
    file's text says who holds it, for the one who is refused.

    Raises:
        StudyError: Another process works on the study.
    """
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StudyError(
                f"{folder.name} is being worked on by {holder}; wait for it, or stop it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
