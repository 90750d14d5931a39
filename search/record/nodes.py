"""The nodes that a study was trained on: which were there, from when to when, with how many slots.

One node a row, in the order in which they came. A machine that comes back after it was lost is
another node. Times are Unix times.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.record.study import Study

_KEY = "nodes"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRow:
    """One node, as the record has it."""

    id: str
    """Ray's, as hexadecimal digits."""
    name: str
    """As attempts name it: the host's name, with its address where several hosts share it."""
    ip: str
    cpus: float
    """That Ray may give to trials."""
    gpus: float
    slots: int
    """Trials that it can train at a time."""
    joined_at: float
    left_at: float | None = None
    lost: bool = False
    """Whether it left while the search went on."""


class Nodes:
    """The nodes of one study; kept in the record with every change."""

    def __init__(self, study: Study) -> None:
        """Read what is recorded; to a killed driver its nodes were there until it was last seen."""
        self._study = study
        seen = study.sessions.last_seen("search")
        self._rows = [
            row if row.left_at is not None else replace(row, left_at=max(seen, row.joined_at))
            for row in nodes_of(study)
        ]

    def joined(self, *, id: str, name: str, ip: str, cpus: float, gpus: float, slots: int) -> None:
        """Record that a node is there."""
        row = NodeRow(
            id=id, name=name, ip=ip, cpus=cpus, gpus=gpus, slots=slots, joined_at=time.time()
        )
        self._rows.append(row)
        self._write()

    def left(self, id: str, *, lost: bool) -> None:
        """Record that a node is not there any more, or that the search has ended on it."""
        now = time.time()
        for index, row in enumerate(self._rows):
            if row.id == id and row.left_at is None:
                self._rows[index] = replace(row, left_at=now, lost=lost)
        self._write()

    def end(self) -> None:
        """Record that the search has ended on all nodes."""
        for row in self._rows:
            if row.left_at is None:
                self.left(row.id, lost=False)

    def _write(self) -> None:
        self._study.note(_KEY, [asdict(row) for row in self._rows])


def nodes_of(study: Study) -> list[NodeRow]:
    """Return the nodes of a study; none where no cluster was joined."""
    rows: list[dict[str, Any]] = study.noted(_KEY) or []
    return [NodeRow(**row) for row in rows]
