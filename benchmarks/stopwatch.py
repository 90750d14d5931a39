"""CPU and wall time of some calls, measured while they are made."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


class Watch:
    """Adds up the CPU and wall seconds of this thread in some calls."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall

    def on(self, owner: Any, *names: str) -> Any:
        """Return a context in which some methods of an object, or of a class, are counted."""
        stack = ExitStack()
        for name in names:
            stack.enter_context(patch.object(owner, name, self._counted(getattr(owner, name))))
        return stack

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.running():
                return call(*args, **kwargs)

        return counted
