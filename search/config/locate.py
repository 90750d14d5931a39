"""Where a configuration lies in a space: the values of its parameters that would make it again.

The way back from `Space.configuration`, for trials of another study whose space was not quite this
one. No Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from model.config import Configuration
from search.config.dimension import PER_BLOCK
from search.config.space import Space


class Outside(ValueError):
    """A configuration that a space does not have; says why, in words that trials share."""


def locate(
    space: Space, configuration: Configuration, *, projected: Collection[str] = ()
) -> dict[str, Any]:
    """Return the values of a space's parameters that stand for a configuration.

    Args:
        space: Where to look.
        configuration: What was trained.
        projected: Keys that are known to do nothing: one that the space holds fixed may have had
            any other value.

    Raises:
        Outside: None do: a value is out of its range, or is fixed at another one, or the training
            is of another length.
    """
    if configuration.training.epochs != space.epochs:
        raise Outside(f"trained for {configuration.training.epochs} epochs, not {space.epochs}")
    plain = configuration.settings()
    values = space.suggest(_Known(space, plain))
    try:
        again = space.configuration(values).settings()
    except ValueError as error:
        raise Outside(str(error)) from None
    free = {PER_BLOCK.get(key, key) for key in projected if key in space.constants}
    for part, settings in plain.items():
        for field, value in settings.items():
            if again[part][field] != value and field not in free:
                fixed = _one(again[part][field])
                raise Outside(f"{_KEYS.get(field, field)} is {fixed} here")
    return values


_KEYS = {field: key for key, field in PER_BLOCK.items()}


class _Known:
    """A suggester that answers with the values of a configuration."""

    def __init__(self, space: Space, plain: Mapping[str, Mapping[str, Any]]) -> None:
        fields = plain["network"] | plain["training"]  # type: ignore[operator]
        self._values: dict[str, Any] = {"num_blocks": len(fields["filters"])}
        for field, value in fields.items():
            key = _KEYS.get(field, field)
            self._values[key] = value
            if key in PER_BLOCK:
                # A key that is not set block by block has one value for all of them.
                self._values[key] = value[0] if len(set(value)) == 1 else None
                self._values |= {f"{key}_{i}": one for i, one in enumerate(value, start=1)}

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        value = self._values.get(name)
        if type(value) is not int or not low <= value <= high or (value - low) % step:
            raise Outside(f"{name} is from {low} to {high} here")
        return value

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value = self._values.get(name)
        number = math.nan if value is None else float(value)
        inside = low <= number <= high
        if inside and step is not None:
            steps = (number - low) / step
            inside = math.isclose(steps, round(steps), rel_tol=0, abs_tol=1e-8)
        if not inside:
            raise Outside(f"{name} is from {low:g} to {high:g} here")
        return number

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._values.get(name)
        for choice in choices:
            # The choice itself, as it is written: 0 and 0.0 are one dropout, True is no number.
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise Outside(f"{name} is {' or '.join(map(str, choices))} here")


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value
