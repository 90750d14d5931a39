"""Are the trials in Optuna's tables what was written? SQLite does not notice a flipped bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from model.config import Configuration

_KINDS: dict[str, type] = {
    "reason": str,
    "failure": str,
    "origin": str,
    "refusal": str,
    "parameters": int,
    "multiply_adds": int,
    "proposal": dict,
    "configuration": dict,
}
"""What is noted of a trial, if it is."""


class _Trial(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def user_attrs(self) -> Mapping[str, Any]: ...


Trials = TypeVar("Trials", bound=Sequence[_Trial])


def sound(trials: Trials) -> Trials:
    """Return Optuna's trials as they are. Raises ValueError where they cannot be ours."""
    for index, trial in enumerate(trials):
        if trial.number != index:
            raise ValueError(f"trial {index} has the number {trial.number}")
        for key, kind in _KINDS.items():
            value = trial.user_attrs.get(key)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{key} of trial {index} is {value!r}")
        if trial.user_attrs.get("configuration") is not None:
            Configuration.from_dict(trial.user_attrs["configuration"])
    return trials
