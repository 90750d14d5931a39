"""Which node trained what, and how busy its slots were: by the record of attempts and nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.record.nodes import NodeRow, nodes_of
from search.record.study import Study

_UNKNOWN = "not placed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What one machine did for a study; a machine that came back counts once."""

    node: str
    slots: int
    """The most it had at a time."""
    attempts: int
    trials: int
    epochs: int
    busy_seconds: float
    """That attempts held its slots, all slots together."""
    present_seconds: float
    """Its slots, times the seconds that it was there for the search."""
    lost: int
    """How often it was lost."""

    @property
    def busy_share(self) -> float | None:
        """Return how much of what it could give was used, from 0 to 1; None if it was not there."""
        if self.present_seconds <= 0:
            return None
        return min(1.0, self.busy_seconds / self.present_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for `result.json`."""
        return {
            "node": self.node,
            "slots": self.slots,
            "attempts": self.attempts,
            "trials": self.trials,
            "epochs": self.epochs,
            "busy_seconds": self.busy_seconds,
            "busy_share": self.busy_share,
            "lost": self.lost,
        }


def workloads(study: Study) -> list[Workload]:
    """Return what each machine did, by name; of an attempt that was never placed, nobody."""
    attempts = study.record.attempts()
    sessions = [s for s in study.sessions.all() if s["stage"] == "search"]
    spans = [(s["started_at"], s["ended_at"] or s["seen_at"]) for s in sessions]
    epochs = _epochs_by_node(study, attempts)
    rows = nodes_of(study)
    known = {row.name for row in rows}
    # A machine that was searched on alone is in no row.
    rows += _as_nodes([a for a in attempts if a["node"] not in known], spans)
    end = max((end for _, end in spans), default=0.0)
    names = dict.fromkeys([row.name for row in rows])
    return [
        _workload(
            name,
            [row for row in rows if row.name == name],
            [a for a in attempts if a["node"] == name],
            spans,
            epochs[name],
            end,
        )
        for name in sorted(names)
    ]


def _workload(
    name: str,
    rows: Sequence[NodeRow],
    attempts: Sequence[Mapping[str, Any]],
    spans: Sequence[tuple[float, float]],
    epochs: int,
    end: float,
) -> Workload:
    present = sum(
        row.slots * _overlap(row.joined_at, row.left_at or end, span)
        for row in rows
        for span in spans
    )
    return Workload(
        node=name,
        slots=max(row.slots for row in rows),
        attempts=len(attempts),
        trials=len({a["trial"] for a in attempts}),
        epochs=epochs,
        busy_seconds=sum((a["ended_at"] or end) - a["started_at"] for a in attempts),
        present_seconds=present,
        lost=sum(row.lost for row in rows),
    )


def _epochs_by_node(study: Study, attempts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    nodes = {(a["trial"], a["attempt"]): a["node"] for a in attempts}
    found: dict[str, int] = defaultdict(int)
    for row in study.record.epochs():
        found[nodes.get((row.trial, row.attempt)) or _UNKNOWN] += 1
    return found


def _as_nodes(
    attempts: Sequence[Mapping[str, Any]], spans: Sequence[tuple[float, float]]
) -> list[NodeRow]:
    """Return one machine that was searched on alone as the node that it is."""
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for attempt in attempts:
        if attempt["node"]:
            by_name[attempt["node"]].append(attempt)
    return [
        NodeRow(
            id=name,
            name=name,
            ip="",
            cpus=0.0,
            gpus=0.0,
            slots=_most_at_once(rows),
            joined_at=spans[0][0],
            left_at=spans[-1][1],
        )
        for name, rows in by_name.items()
        if spans
    ]


def _most_at_once(attempts: Sequence[Mapping[str, Any]]) -> int:
    steps = [(a["started_at"], 1) for a in attempts]
    steps += [(a["ended_at"], -1) for a in attempts if a["ended_at"]]
    now = most = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


def _overlap(begin: float, end: float, span: tuple[float, float]) -> float:
    return max(0.0, min(end, span[1]) - max(begin, span[0]))
