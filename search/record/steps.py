"""What a driver writes from one of its acts to the next is one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class Steps:
    """Gives those who write to one database the connection to write by."""

    def __init__(self, engine: sa.Engine) -> None:
        """Write to the database of `engine`, in one thread."""
        self._engine = engine
        self._inside = False
        self._connection: sa.Connection | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Commit all that is written in the block together at its end, or nothing of it.

        A step in a step is part of that. Where nothing is written, nothing is opened.
        """
        if self._inside:
            yield
            return
        self._inside = True
        try:
            yield
            if self._connection is not None:
                self._connection.commit()
        finally:
            self._inside = False
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()  # takes back what is not committed

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give the connection of the step; outside of one, the block is a transaction."""
        if not self._inside:
            with self._engine.begin() as connection:
                yield connection
            return
        if self._connection is None:
            self._connection = self._engine.connect()
        yield self._connection
