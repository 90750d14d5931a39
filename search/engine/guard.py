"""A small process that outlives the driver of a search, and leaves nothing of it behind.

A driver may be killed, and Ray ends one on the spot that has lost it. Then its guard ends what is
left of Ray, removes its root, says so in the record, and on the terminal how to go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it waits for hours: what it needs in the end is imported then
    from search.record.study import Study

SAID, DONE = b"said ", b"done "
_END_SECONDS = 10.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Guard:
    """A guard, as its driver sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Speak with a process that runs `main`."""
        self._process = process

    def tell(self, word: bytes) -> None:
        """Tell it that why the driver ends was `SAID`, or that nothing is left to do: `DONE`."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it was killed
            self._process.stdin.write(word)
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Let it go: nothing is left to do."""
        self.tell(DONE)
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END_SECONDS)


@contextmanager
def guarded(study: Study, session: int, root: Path) -> Iterator[Guard]:
    """Have a guard while a session of a study is at work with a root."""
    process = subprocess.Popen(
        [sys.executable, "-m", "search.engine.guard", str(study.folder), str(session), str(root)],
        stdin=subprocess.PIPE,  # its end tells of ours, whatever that was
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what ends our whole group leaves it
    )
    guard = Guard(process)
    try:
        yield guard
    finally:
        guard.dismiss()


def leave_record(study: Study, session: int) -> None:
    """Record that a search has come to an end that it did not record itself.

    What is in flight stays so. A driver that has begun since is left alone.
    """
    study.sessions.close(session)
    if study.sessions.all()[-1]["id"] == session:
        study.set_state("stopped")


def say_gone(study: str, why: str) -> None:
    """Say on the terminal why a driver is gone, and how to go on."""
    show_cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # the live screen had hidden it
    line = f"{show_cursor}error: {why}; resume with: python -m search resume {study}\n"
    with suppress(OSError):  # the terminal is closed
        os.write(2, line.encode())


def main(folder: Path, session: int, root: Path) -> None:
    """Wait for the driver's end, and clean up after one that could not do it itself."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    told = sys.stdin.buffer.read()  # ends when the driver does
    if DONE in told or (SAID in told and not root.exists()):
        return
    if SAID not in told:
        say_gone(
            folder.name, f"the search of {folder.name} was killed, or its Ray died and ended it"
        )
    from search.engine.ray_root import clear, keep_logs

    keep_logs(root, folder)
    clear(root)
    from search.record.study import StudyError, open_study

    with suppress(StudyError):  # it is not ours to mend
        leave_record(open_study(folder), session)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
