"""One parameter as an axis from 0 to 1, and answers to a define-by-run space by places on its axes.

No Optuna and no numpy: a space is checked, and drawn from, without either.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One parameter."""

    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @cached_property
    def is_ordered(self) -> bool:
        """Whether near values are alike: numbers, also those given as choices."""
        return all(isinstance(c, int | float) and not isinstance(c, bool) for c in self.choices)

    @cached_property
    def width(self) -> int:
        """How many columns of the cube the parameter takes."""
        return 1 if self.is_ordered or len(self.choices) <= 2 else len(self.choices)

    @cached_property
    def _ranked(self) -> tuple[Any, ...]:
        return tuple(sorted(self.choices)) if self.is_ordered else self.choices

    def decode(self, unit: float) -> Any:
        """Return the value at a place in [0, 1]: equal shares for discrete values."""
        if self.choices:
            ranked = self._ranked
            return ranked[min(int(unit * len(ranked)), len(ranked) - 1)]
        low, high = self.low, self.high
        if self.log:
            value = math.exp(_between(*self._ends, unit))
            value = min(max(round(value) if self.whole else value, low), high)
            return int(value) if self.whole else value
        if self.whole or self.step:
            step = self.step or 1.0
            count = int((high - low) / step + 1e-9) + 1
            value = low + step * min(int(unit * count), count - 1)
            return round(value) if self.whole else min(round(value, 12), high)
        return _between(low, high, unit)

    def encode(self, value: Any) -> float:
        """Return the place of a value in [0, 1]; the inverse of `decode` up to rounding."""
        if self.choices:
            return self._places[value]
        low, high = self._ends
        if self.log:
            value = math.log(value)
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    @cached_property
    def _places(self) -> dict[Any, float]:
        ranked = self._ranked
        return {choice: (index + 0.5) / len(ranked) for index, choice in enumerate(ranked)}

    @cached_property
    def _ends(self) -> tuple[float, float]:
        # Of discrete values half a step beyond each end, as Optuna draws them; of log, logarithms.
        low, high = self.low, self.high
        if self.log and self.whole:
            low, high = low - 0.5, high + 0.5
        elif self.whole or self.step:
            step = self.step or 1.0
            low, high = low - step / 2, high + step / 2
        return (math.log(low), math.log(high)) if self.log else (low, high)


class Placed:
    """A suggester that answers each question with the value at a place of its axis."""

    def __init__(
        self,
        place: Callable[[str, Axis], float],
        *,
        axes: Mapping[str, Axis] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """Answer with the values of `fixed`, and for other names with those at their `place`.

        Axes that are known (`axes`) need not be made again; those that are not are added to `axes`
        of this object as they are asked for.
        """
        self.axes = dict(axes or {})
        self._place, self._fixed = place, fixed or {}

    @classmethod
    def at_random(cls, rng: random.Random, fixed: Mapping[str, Any] | None = None) -> Placed:
        """Answer evenly on each parameter's own scale, as Optuna's random sampler does."""
        return cls(lambda name, axis: rng.random(), fixed=fixed)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._answer(name, low=low, high=high, step=step, log=log, whole=True))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._answer(name, low=low, high=high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, choices=tuple(choices))

    def _answer(self, name: str, **axis: Any) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        if name not in self.axes:
            self.axes[name] = Axis(**axis)
        return self.axes[name].decode(self._place(name, self.axes[name]))


def _between(low: float, high: float, unit: float) -> float:
    return low + (high - low) * unit
