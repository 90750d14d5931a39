"""Why a trial could not be trained here, by kind, and what is done about each kind.

A bug belongs to the configuration, a lost node to nobody, a full disk to the whole study: they are
told apart where they happen, on the worker (`of_error`) or by what Ray says of a dead one
(`of_dead_worker`), and answered in one place (`Failures`).
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from search.record.whole_file import is_disk_full
from search.words import one_line

Kind = Literal[
    "bug",
    "out of memory",
    "out of GPU memory",
    "diverged",
    "hung",
    "worker lost",
    "node lost",
    "data unreadable",
    "disk full",
    "checkpoints out of reach",
]
Action = Literal["retry", "retry alone", "fail", "infeasible", "halt"]
"""`retry`: from the checkpoint, free of charge. `retry alone`: with all the memory of the machine.
`halt`: the study stops, and the trial goes on when it is resumed."""

SAME_BUG = 3
"""Trials ended by one and the same error after which the study halts: it is not their fault."""
_MOST_LOSSES = 4
"""Workers that die under a trial without a further epoch, before it is taken for its own fault."""
_MOST_NODES = 12
"""The same of nodes: a trial may bring down every one it comes to."""
_MOST_DEATHS = 6
"""Workers that die in a row, over all trials, or so many a slot: then it is the machine's fault."""
_DEATHS_A_SLOT = 3
_MOST_HANGS = _MOST_SHORTAGES = 2
NEED_MORE_MEMORY = ("out of memory", "out of GPU memory")
_REASON = 200  # characters
# Ray tells only in words why an actor died. "Unavailable": the connection broke, and the node that
# would know why is silent; Ray takes it for dead some seconds later.
_SAID: tuple[tuple[Kind, str], ...] = (
    ("node lost", r"node (has )?died|node was terminated|NodeDiedError|actor \S+ is unavailable"),
    ("out of memory", r"low on memory|OutOfMemoryError|memory pressure|MemoryError|bad_alloc"),
    ("disk full", r"No space left on device|Disk quota exceeded"),
    ("data unreadable", r"Object\w*(Lost|Freed|Evicted|TimedOut)\w*Error|OwnerDiedError"),
)
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)$', re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What went wrong with an attempt."""

    kind: Kind
    reason: str
    """One line."""
    trace: str = ""
    """The traceback, or all that Ray says; may be empty."""

    @property
    def signature(self) -> str:
        """Return what two failures by the same bug have in common: the place and the error.

        Not its message, which may name the values of a configuration.
        """
        frames = [f"{m['file']}:{m['line']} {m['name']}" for m in _FRAME.finditer(self.trace)]
        return "\n".join([*frames[-3:], self.reason.partition(":")[0]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is done about a failure."""

    action: Action
    reason: str
    """Why the trial ends, or the study halts, or what it is tried again for."""


def of_error(error: BaseException) -> Failure:
    """Return what an exception on a worker means: by the first of its causes that tells."""
    kinds = [kind for cause in _causes(error) if (kind := _kind_of(cause)) is not None]
    trace = "".join(traceback.format_exception(error))
    reason = _short(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    return Failure(kind=kinds[0] if kinds else "bug", reason=reason, trace=trace)


def of_dead_worker(said: str, *, killed_for_memory: bool) -> Failure:
    """Return what the death of a worker's process means.

    Args:
        said: All that Ray says of it.
        killed_for_memory: Whether the system has killed a process for want of memory just now.
    """
    for kind, pattern in _SAID:
        if match := re.search(pattern, said, re.IGNORECASE):
            line = next(line for line in said[match.start() :].splitlines() if line.strip())
            begun = said[: match.start()].rpartition("\n")[2]
            return Failure(kind=kind, reason=_short(begun + line), trace=said)
    if "in its creation task" in said:
        reason = next(line for line in reversed(said.splitlines()) if line.strip())
        return Failure(kind="bug", reason=_short(reason), trace=said)
    if killed_for_memory:
        reason = "the system killed the worker process for want of memory"
        return Failure(kind="out of memory", reason=reason, trace=said)
    return Failure(kind="worker lost", reason="the worker process died", trace=said)


class Failures:
    """Answers the failures of one session of a search."""

    def __init__(self, slots: int) -> None:
        self._bugs: dict[str, list[int]] = {}
        self._deaths = 0
        self.resize(slots)

    def resize(self, slots: int) -> None:
        """Take note of how many slots there are."""
        self._most_deaths = max(_MOST_DEATHS, _DEATHS_A_SLOT * slots)

    def progressed(self) -> None:
        """Note that a worker has finished an epoch."""
        self._deaths = 0

    def answer(
        self, failure: Failure, earlier: Sequence[tuple[str, int]], *, epochs: int
    ) -> Answer:
        """Return what is done about a failure.

        Args:
            failure: Of an attempt.
            earlier: Of the same trial, from its first attempt on: the kind of every failure, and
                the epoch that the attempt went on from.
            epochs: Of the trial, that the record holds.
        """
        kind, reason = failure.kind, failure.reason
        times = 1 + sum(other == kind for other, _ in earlier)
        if kind in ("data unreadable", "disk full", "checkpoints out of reach"):
            return Answer(action="halt", reason=f"{kind}: {reason}")
        if kind in NEED_MORE_MEMORY:
            if times < _MOST_SHORTAGES:
                return Answer(action="retry alone", reason=f"{kind}: {reason}")
            return Answer(
                action="infeasible", reason=f"{kind}, also with no other trial beside it: {reason}"
            )
        if kind == "hung":
            action: Action = "retry" if times < _MOST_HANGS else "fail"
            return Answer(action=action, reason=f"hung: {reason}")
        if kind in ("worker lost", "node lost"):
            # Losses that an epoch lies between do not add up: a long trial comes to its end also
            # on a shaky machine.
            losses = 1 + sum(other == kind and start >= epochs for other, start in earlier)
            return self._answer_loss(kind, reason, losses)
        return Answer(action="fail", reason=reason)

    def ended_by_same(self, failure: Failure, trial: int) -> tuple[int, ...]:
        """Note that a bug has ended a trial; return all those it has, once they are too many."""
        trials = self._bugs.setdefault(failure.signature, [])
        trials.append(trial)
        return tuple(trials) if len(trials) >= SAME_BUG else ()

    def _answer_loss(self, kind: Kind, reason: str, losses: int) -> Answer:
        if kind == "node lost":
            # Never a trial's fault, unless it brings down every node it comes to.
            if losses < _MOST_NODES:
                return Answer(action="retry", reason=reason)
            return Answer(action="fail", reason=f"its node died {losses} times: {reason}")
        self._deaths += 1
        if self._deaths >= self._most_deaths:
            return Answer(
                action="halt",
                reason=f"{self._deaths} workers in a row died before they finished an epoch: too"
                " little memory, or a driver problem; see ray-logs in the study's folder",
            )
        if losses >= _MOST_LOSSES:
            return Answer(action="fail", reason=f"its worker died {losses} times: {reason}")
        return Answer(action="retry", reason=reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _kind_of(error: BaseException) -> Kind | None:
    names = {kind.__name__ for kind in type(error).__mro__}  # not to import torch for its names
    if is_disk_full(error):
        return "disk full"
    if "OutOfMemoryError" in names or "STATUS_ALLOC_FAILED" in str(
        error
    ):  # torch's; Ray's own never reaches a worker
        return "out of GPU memory"
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return "out of memory"
    if "DataError" in names:
        return "data unreadable"
    if "ShelfError" in names:
        return "checkpoints out of reach"
    return None


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _REASON else f"{line[: _REASON - 3]}..."
