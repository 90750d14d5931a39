"""Who works on a study: one process at a time, with a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command that shows a study should answer at once
    from search.study import Study


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
            from search.study import StudyError

            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StudyError(
                f"{folder.name} is being worked on by {holder}; wait for it, or stop it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def is_alive(study: Study) -> bool:
    """Return whether a driver works on the study, as far as can be told from this machine."""
    import psutil

    sessions = study.record.sessions()
    if not sessions or sessions[-1]["ended_at"] is not None:
        return False
    last = sessions[-1]
    if last["host"] != platform.node():
        return True
    try:  # another process may have been given the same number since
        return bool(psutil.Process(last["pid"]).create_time() <= last["started_at"] + 1)
    except psutil.Error:
        return False
