"""What `doctor` says of a study: what was found, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from search.words import plural

Outcome = Literal["mended", "can be mended", "cannot be mended"]
Cure = Callable[[], object]

RECORD_BACK = "put a copy of the database back, or begin the study again"
"""What to do where the record has lost what nothing else tells."""
_MOST = 20  # findings shown to people; JSON has all


class IncurableError(Exception):
    """A cure did not work; one line that says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Something that is not as it should be."""

    what: str
    """One line, naming the trial or the file."""
    how: str
    """What mending does; where that cannot be, what to do, or empty where `what` says it."""
    cure: Cure | None = None
    """Mends it, and perhaps others; None where it cannot be mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that was not as it should be, and what became of it."""

    what: str
    outcome: Outcome
    how: str

    @classmethod
    def left(cls, found: Found) -> Finding:
        """Return what was found and left as it is."""
        outcome: Outcome = "cannot be mended" if found.cure is None else "can be mended"
        return cls(what=found.what, outcome=outcome, how=found.how)

    @classmethod
    def mended(cls, found: Found) -> Finding:
        """Return what was found and mended."""
        return cls(what=found.what, outcome="mended", how=found.how)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All that was found in one study."""

    study: str
    findings: tuple[Finding, ...]
    worked_on_by: str = ""
    """The process that works on the study, because of which nothing was mended; or empty."""
    incomplete: str = ""
    """Why some of it was not looked at; empty where everything was."""
    notes: tuple[str, ...] = ()
    """What may be of interest, and is in order."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is left to do."""
        return not self.incomplete and all(f.outcome == "mended" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `doctor --json`."""
        return asdict(self) | {"well": self.is_well}

    def __str__(self) -> str:
        """Return it for people: two lines a finding."""
        lines = [f"{self.study}: {self._count()}"]
        for finding in self.findings[:_MOST]:
            lines += [f"{finding.outcome}: {finding.what}"]
            lines += [f"    {finding.how}"] if finding.how else []
        if (more := len(self.findings) - _MOST) > 0:
            lines.append(f"and {more:,} more; --json has them all")
        if self.worked_on_by:
            lines.append(f"nothing was mended: {self.study} is worked on by {self.worked_on_by}")
        if self.incomplete:
            lines.append(f"the rest was not looked at: {self.incomplete}")
        lines += self.notes
        lines.append(f"what a search decided is checked by: python -m search verify {self.study}")
        return "\n".join(lines)

    def _count(self) -> str:
        if not self.findings:
            return "nothing is wrong"
        outcomes = [finding.outcome for finding in self.findings]
        kinds = ("mended", "can be mended", "cannot be mended")
        counts = ", ".join(f"{outcomes.count(k)} {k}" for k in kinds if k in outcomes)
        return f"{plural(len(outcomes), 'finding')}: {counts}"
