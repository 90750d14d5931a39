"""What observers of a search are told: not before it is in the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from search.prune.assignment import Observer


class News:
    """What has happened in the present step of a driver, and who is told of it."""

    def __init__(
        self,
        observers: Sequence[Observer],
        *,
        committed: Callable[[], AbstractContextManager[None]],
        then: Callable[[], None],
    ) -> None:
        """Begin with nothing.

        Args:
            observers: Are told, in order.
            committed: Makes one transaction of a block, see `Study.step`.
            then: Called after each, before anybody is told.
        """
        self.observers = tuple(observers)
        self._committed, self._then = committed, then
        self._waiting: list[Callable[[Observer], None]] = []
        self._inside = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Commit what is written in the block at its end; then tell what happened in it.

        What was decided in the block may be acted on after it. A step in a step is part of that.
        """
        outermost, self._inside = not self._inside, True
        try:
            with self._committed():
                yield
        except BaseException:
            self._waiting.clear()  # it is not so
            raise
        finally:
            self._inside = not outermost
        if outermost:
            self._then()
            waiting, self._waiting = self._waiting, []
            for tell in waiting:
                for observer in self.observers:
                    tell(observer)

    def add(self, tell: Callable[[Observer], None]) -> None:
        """Let observers be told at the end of the step."""
        self._waiting.append(tell)
