"""A stage of work on a study: in the record from its start to its end, whatever ends it.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed), or `stop` in another terminal: the first
asks a search to come to an end, and ends any other stage; the second ends every stage at once. What
comes while a stage cleans up waits until that is done.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from search.record.stop import drop_stale_request, take_request
from search.record.study import Study
from search.study_error import StorageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 1.0
_CLEANING_SECONDS = 5.0  # after which a stage that was to end at once is asked again
_LOOKS_A_SIGHT = 5  # the record is told every so many looks


class Session:
    """The stage that this process works at."""

    def __init__(self, study: Study, number: int, stop: Callable[[str], None] | None) -> None:
        """Prepare; use `session`."""
        self.number = number
        """Its id in the record."""
        self.late = False
        """Whether a signal came while the stage was left, and waits."""
        self._study, self._stop = study, stop
        self._asked = self._leaving = False
        self._raised_at = -math.inf
        self._request = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="session", daemon=True)

    def begin(self) -> None:
        """Listen, say in the record that the stage goes on, and look for requests to stop."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._handle)
        self._thread.start()

    def leave(self) -> None:
        """Let signals wait from now on: what is being cleaned up must not be broken off."""
        self._leaving = True

    def end(self) -> None:
        """Leave, and say no more."""
        self.leave()
        self._over.set()
        self._thread.join()

    def _handle(self, number: int, _: FrameType | None) -> None:
        request, self._request = self._request, ""
        why = "asked to by `stop`" if request else f"{signal.Signals(number).name} received"
        if number == signal.SIGHUP:
            _forget_terminal()
        if self._leaving:
            self.late = not self._asked
        elif self._stop is not None and not self._asked and request != "now":
            self._asked = True
            self._stop(why)
        elif time.monotonic() - self._raised_at > _CLEANING_SECONDS:
            if self._stop is not None and not self._asked:
                self._stop(why)  # the exception may come to nothing, such as in a destructor
            self._asked, self._raised_at = True, time.monotonic()
            raise KeyboardInterrupt(why)

    def _look(self) -> None:
        looks = 0
        while not self._over.wait(_LOOK_SECONDS):
            looks += 1
            if request := take_request(self._study.folder):
                self._request = request
                # To the main thread, which may be waiting inside of Ray.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if looks % _LOOKS_A_SIGHT == 0:
                with suppress(StorageError, SQLAlchemyError):  # the next who writes says so
                    self._study.sessions.see()


@contextmanager
def session(
    study: Study, stage: str, *, stop: Callable[[str], None] | None = None
) -> Iterator[Session]:
    """Work at a stage of a study, in the main thread.

    Args:
        study: Held by this process.
        stage: `search`, `retrain`, `evaluate` or `export`.
        stop: Asks the stage to come to an end and is told why; None where it has no better end
            than KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: The stage was to end at once, or somebody asked while it ended.
    """
    drop_stale_request(study.folder)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    working = Session(
        study, study.sessions.start(stage, host=platform.node(), pid=os.getpid()), stop
    )
    try:
        working.begin()
        yield working
    finally:
        working.end()
        try:
            study.sessions.end(working.number)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if working.late:
        raise KeyboardInterrupt


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process between two stages as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def ignore_signals() -> None:
    """Let no signal disturb the end of this process."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _forget_terminal()
    raise KeyboardInterrupt


def _forget_terminal() -> None:
    """Write to nowhere what was written to a terminal that is closed; it would be an error."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
