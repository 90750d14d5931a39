"""End a driver at one of its writes to the record, as if its process were killed there."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import sqlalchemy as sa

from search.propose.optuna_tables import OptunaTables
from search.record.record import Record
from search.record.study import Study

_WRITES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Record, ("add_epoch", "add_event", "start_attempt", "place_attempt", "end_attempt")),
    (OptunaTables, ("add", "report", "note", "end")),
    (sa.Connection, ("commit",)),  # of a step
)


class Killed(BaseException):
    """Stands for the end of the driver's process."""


class Kill:
    """Ends the driver just before one of its writes, or before it commits a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, apart: bool = False) -> None:
        """Count from now on.

        `apart`: each write is a transaction of its own, as in the records of earlier versions. A
        driver that was killed then has left half a step behind.
        """
        self.left = math.inf
        """Writes until the end."""
        for owner, names in _WRITES:
            for name in names:
                monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))
        if apart:
            monkeypatch.setattr(Study, "step", _no_step)

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return write(*args, **kwargs)

        return counted


def _no_step(study: Study) -> AbstractContextManager[None]:
    return nullcontext()
