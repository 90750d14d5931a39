"""A study that goes on beyond its first budget, as its record tells it.

The event `extended` holds the new settings; `reopened` takes back the end of a trial that only the
old budget had ended. With a longer training (`max_epochs`) a new chapter begins: learning-rate
schedules differ, so rungs start empty, and the best configurations so far are trained anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search.config.config import StudyConfig
from search.record.record import EventRow

if TYPE_CHECKING:
    from search.record.study import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """New settings of a study; all are absolute, so that they may be applied twice."""

    budget: dict[str, Any]
    """The whole section of the study file."""
    max_epochs: int
    before: int
    """`max_epochs` until then."""
    again: tuple[int, ...] = ()
    """Trials whose configurations are trained anew, for longer."""

    @classmethod
    def of_event(cls, event: EventRow) -> Extension:
        """Return what an event of the kind `extended` says."""
        content = json.loads(event.reason or "")
        return cls(**content | {"again": tuple(content["again"])})

    def to_json(self) -> str:
        """Return what is written to the event."""
        return json.dumps(asdict(self))

    @property
    def is_longer(self) -> bool:
        """Whether trials are trained for longer than before."""
        return self.max_epochs != self.before


def extensions(events: Iterable[EventRow]) -> list[Extension]:
    """Return every extension of a study, in order."""
    return [Extension.of_event(event) for event in events if event.kind == "extended"]


def as_extended(config: StudyConfig, made: Iterable[Extension]) -> StudyConfig:
    """Return the settings a study has now."""
    for extension in made:
        changes = {"budget": extension.budget, "max_epochs": extension.max_epochs}
        config = StudyConfig.model_validate(config.model_dump() | changes)
    return config


def as_begun(config: StudyConfig, made: Iterable[Extension]) -> StudyConfig:
    """Return the settings a study was begun with, as far as a proposal depends on them."""
    first = next(iter(made), None)
    return config if first is None else config.model_copy(update={"max_epochs": first.before})


def may_go_on(trial: Trial, max_epochs: int) -> bool:
    """Return whether nothing but the end of the budget has ended a trial.

    `max_epochs` is how long a study trains now: one that was begun for less has learning rates for
    that.
    """
    of_budget = trial.reason.startswith(("never promoted: ", "the budget ended: "))
    return trial.outcome == "pruned" and of_budget and trial.max_epochs == max_epochs


def taken_back(events: Iterable[EventRow]) -> set[int]:
    """Return the events, by id, of ends that a later event took back."""
    last_end: dict[int, int] = {}
    found = set()
    for event in events:
        if event.kind == "ended":
            last_end[event.trial] = event.id
        elif event.kind == "reopened":
            found.add(last_end.pop(event.trial))
    return found
