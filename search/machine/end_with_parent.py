"""Child processes that end with their parent, also where it was killed and could not end them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Let this process, which `multiprocessing` started, end as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # nobody would read what could still be said

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


@contextmanager
def signals_to_parent_only() -> Iterator[None]:
    """Let the processes that are started inside never see Ctrl-C or a closed terminal.

    Both go to every process of a terminal; the parent decides what happens, and ends the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield  # a process that is started has the mask of the thread that starts it
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
