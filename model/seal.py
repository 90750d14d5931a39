"""The looks at the test images that a model card tells of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One time that the test images were opened."""

    at: str
    """When, in UTC, to the second."""
    reason: str
    """Why."""
    broke_seal: bool
    """Whether they had been seen before."""
    showed: bool
    """Whether a number came of it; where the images could not be read, none did."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def looks_of(rows: Sequence[Mapping[str, Any]]) -> list[Look]:
    """Return the looks of a study's record (`Record.looks()`), in order."""
    return [
        Look(
            at=datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            reason=row["reason"],
            broke_seal=bool(row["broke_seal"]),
            showed=row["result"] is not None,
        )
        for row in rows
    ]


def seal_in_words(looks: Sequence[Look]) -> str:
    """Return how often they were opened: `once`, or `2 times, the seal was broken`."""
    seen = [look for look in looks if look.showed]
    times = "never" if not seen else "once" if len(seen) == 1 else f"{len(seen)} times"
    return times + (", the seal was broken" if any(look.broke_seal for look in seen) else "")
