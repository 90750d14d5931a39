"""What `verify` says: how much was derived again, and the first difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from search.record.record import EventRow
from search.record.study import trial_name
from search.words import one_line, plural

_LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A place where the record is not what follows from it."""

    trial: str
    event: int | None
    """Id of the event that is to blame; None where none is."""
    what: str
    """Such as `the decision on epoch 3: action`."""
    stored: Any
    derived: Any

    def __str__(self) -> str:
        """Return it on one line."""
        at = "" if self.event is None else f", event {self.event}"
        found = f"the record has {_shown(self.stored)}, derived is {_shown(self.derived)}"
        return one_line(f"{self.trial}{at}, {self.what}: {found}")


@dataclass(kw_only=True, slots=True)
class Verification:
    """How much was derived again, and what came out."""

    study: str
    proposals: int = 0
    decisions: int = 0
    ends: int = 0
    difference: Difference | None = None
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Versions and hardware that are not those the study was begun with: then, now."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `verify --json`."""
        conditions = {key: {"then": a, "now": b} for key, (a, b) in self.conditions.items()}
        return asdict(self) | {"conditions": conditions, "same": self.difference is None}

    def __str__(self) -> str:
        """Return it for people, on a few lines."""
        done = f"{self.study}: {plural(self.proposals, 'proposal')},"
        done += f" {plural(self.decisions, 'decision')} and {plural(self.ends, 'end')} re-derived"
        lines = [f"{done}: all the same"]
        if self.difference is not None:
            lines = [f"{done}; then the first difference:", f"  {self.difference}"]
        for key, (then, now) in self.conditions.items():
            lines.append(f"caution: {key} is {now} here, and was {then or 'not noted'}")
        if self.conditions and self.difference is not None:
            lines.append(
                "Other versions or another kind of machine may give other floating-point numbers:"
                " verify where the study was begun before you doubt its record."
            )
        elif self.difference is None:
            lines.append(
                "This holds for the same versions and kind of machine: elsewhere, floating-point"
                " numbers may differ."
            )
        return "\n".join(lines)


def differing(event: EventRow, what: str, stored: Any, derived: Any) -> Difference:
    """Return a difference that an event shows."""
    trial = trial_name(event.trial)
    return Difference(trial=trial, event=event.id, what=what, stored=stored, derived=derived)


def compared(event: EventRow, what: str, stored: Any, derived: Any) -> Iterator[Difference]:
    """Yield where two values differ: of dictionaries and lists, the places where they do."""
    # As JSON has it: a list and a tuple of the same are the same.
    for place, one, other in _places(stored, json.loads(json.dumps(derived))):
        yield differing(event, ": ".join([what, *place]), one, other)


def _places(stored: Any, derived: Any) -> Iterator[tuple[list[str], Any, Any]]:
    if isinstance(stored, Mapping) and isinstance(derived, Mapping):
        for key in [*stored, *(key for key in derived if key not in stored)]:
            for place, one, other in _places(stored.get(key), derived.get(key)):
                yield [str(key), *place], one, other
    elif stored != derived:
        yield [], stored, derived


def _shown(value: Any) -> str:
    text = "nothing" if value is None or value == "" else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
