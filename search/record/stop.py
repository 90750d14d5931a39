"""Ask whoever works on a study to stop, from another terminal or another machine.

A request is the file `.stop` in the study's folder, with the word `stop` or `now`.
"""

from __future__ import annotations

import fcntl
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from data.plain_file import open_plain
from search.record.lock import is_alive
from search.record.study import Study
from search.record.whole_file import write_text

_REQUEST, _LOCK = ".stop", ".lock"
_POLL_SECONDS = 0.5
_WORD_BYTES = 100
_SILENT_SECONDS = 60.0
"""A driver on another machine that has not been seen for so long is taken for dead."""


def take_request(folder: Path) -> str:
    """Return what was asked for since the last time: `stop`, `now` or, mostly, nothing."""
    path = folder / _REQUEST
    try:
        with open_plain(path) as file:
            word = file.read(_WORD_BYTES).strip()
        path.unlink(missing_ok=True)
    except OSError:
        return ""
    return "now" if word == b"now" else "stop"


def drop_stale_request(folder: Path) -> None:
    """Forget what was asked of an earlier driver: before the study was locked by this one."""
    with suppress(OSError):
        if (folder / _REQUEST).stat().st_mtime_ns < (folder / _LOCK).stat().st_mtime_ns:
            (folder / _REQUEST).unlink()


def ask_to_stop(study: Study, *, now: bool, say: Callable[[str], None]) -> None:
    """Ask the driver of a study to stop, wait until it has left, and say how to go on.

    Args:
        study: Open for reading.
        now: At once, not after the current epochs.
        say: Is told each line.
    """
    if not is_worked_on(study):
        say(f"nobody works on {study.name}; {_next(study)}")
        return
    write_text(study.folder / _REQUEST, "now" if now else "stop")
    when = "at once" if now else "after the current epochs"
    say(f"{study.name} is to stop {when}; waiting for that, and Ctrl-C ends the waiting only")
    try:
        while is_worked_on(study):
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        say(f"no longer waiting; {study.name} stops all the same")
        return
    (study.folder / _REQUEST).unlink(missing_ok=True)  # of a driver that ended without reading it
    say(f"nobody works on {study.name} any more; {_next(study)}")


def is_worked_on(study: Study) -> bool:
    """Return whether a driver works on a study, also one on a machine that shares its folder."""
    if _is_held(study.folder):
        return True
    if not is_alive(study):
        return False
    last = study.sessions.all()[-1]
    here = last["host"] == platform.node()
    return bool(here or time.time() - last["seen_at"] < _SILENT_SECONDS)


def _is_held(folder: Path) -> bool:
    try:
        with open_plain(folder / _LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _next(study: Study) -> str:
    if study.state == "finished":
        return "it is finished"
    return f"resume with: python -m search resume {study.name}"
