"""A search space as the unit cube: one axis a parameter, and points drawn define-by-run.

A model needs vectors; a space whose networks differ in depth has parameters that do not always
exist. Every parameter any draw may have gets an axis (several, for words without an order), and one
that does not exist in a point stands in the middle of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
_EXPLORING_DRAWS = 256


class Suggests(Protocol):
    """The part of an Optuna trial that a define-by-run function calls."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


Draw = Callable[[Suggests], Mapping[str, Any]]
"""Asks for every parameter that exists, given those before it; returns them by name."""


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
    def _log_ends(self) -> tuple[float, float]:
        return math.log(self.low), math.log(self.high)

    @cached_property
    def _ranked(self) -> tuple[Any, ...]:
        return tuple(sorted(self.choices)) if self.is_ordered else self.choices

    def decode(self, unit: float) -> Any:
        """Return the value at a place in [0, 1]: equal shares for discrete values."""
        if self.choices:
            ranked = self._ranked
            return ranked[min(int(unit * len(ranked)), len(ranked) - 1)]
        low, high = self.low, self.high
        if self.whole or self.step:
            step = self.step or 1.0
            if self.log:  # whole numbers; half a step beyond each end, as Optuna draws them
                value = math.exp(_between(math.log(low - 0.5), math.log(high + 0.5), unit))
                return int(min(max(round(value), low), high))
            count = int((high - low) / step + 1e-9) + 1
            value = low + step * min(int(unit * count), count - 1)
            return round(value) if self.whole else min(round(value, 12), high)
        if self.log:
            return min(max(math.exp(_between(*self._log_ends, unit)), low), high)
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
        low, high = self.low, self.high
        if self.log and self.whole:
            low, high = low - 0.5, high + 0.5
        elif self.whole or self.step:
            step = self.step or 1.0
            low, high = low - step / 2, high + step / 2
        return (math.log(low), math.log(high)) if self.log else (low, high)


@dataclass(kw_only=True, slots=True)
class _Explorer:
    """Answers at random and remembers what was asked for."""

    rng: random.Random
    axes: dict[str, Axis] = field(default_factory=dict)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._answer(name, Axis(low=low, high=high, step=step, log=log, whole=True)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._answer(name, Axis(low=low, high=high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, Axis(choices=tuple(choices)))

    def _answer(self, name: str, axis: Axis) -> Any:
        return self.axes.setdefault(name, axis).decode(self.rng.random())


class _Placed:
    """Answers each question with the value at a given place of its axis.

    A parameter that no exploring draw met has no axis in the cube; it is drawn all the same.
    """

    def __init__(self, axes: Mapping[str, Axis], place: Callable[[str, Axis], float]) -> None:
        self._axes, self._place = axes, place

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        axis = self._axes.get(name) or Axis(low=low, high=high, step=step, log=log, whole=True)
        return int(axis.decode(self._place(name, axis)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        axis = self._axes.get(name) or Axis(low=low, high=high, step=step, log=log)
        return float(axis.decode(self._place(name, axis)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        axis = self._axes.get(name) or Axis(choices=tuple(choices))
        return axis.decode(self._place(name, axis))


class Cube:
    """The axes of a define-by-run space, and the ways to draw its points."""

    def __init__(self, draw: Draw) -> None:
        """Learn the axes from many draws, seeded: the same space has the same axes."""
        explorer = _Explorer(rng=random.Random(0))
        for _ in range(_EXPLORING_DRAWS):
            draw(explorer)
        self._draw = draw
        self.axes = dict(sorted(explorer.axes.items()))
        self._columns: dict[str, int] = {}
        self.width = 0
        """Number of columns of a vector."""
        for name, axis in self.axes.items():
            self._columns[name] = self.width
            self.width += axis.width

    def encode(self, values: Mapping[str, Any]) -> Vector:
        """Return the vector (width,) float64 of a point; what it lacks stands in the middle."""
        vector = [0.5] * self.width
        columns, axes = self._columns, self.axes
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                continue
            axis = axes[name]
            if axis.width == 1:
                vector[column] = axis.encode(value)
            else:
                # A corner each: any two words are as far apart as the ends of an axis.
                for offset, choice in enumerate(axis.choices):
                    vector[column + offset] = 0.5 + (0.35 if choice == value else -0.35)
        return np.array(vector)

    def at(self, places: Sequence[float]) -> dict[str, Any]:
        """Return the point at places in [0, 1], one a parameter, in the order of `axes`."""
        by_name = dict(zip(self.axes, places, strict=True))
        return dict(self._draw(_Placed(self.axes, lambda name, _: by_name.get(name, 0.5))))

    def anywhere(self, rng: random.Random) -> dict[str, Any]:
        """Draw a point uniformly."""
        return dict(self._draw(_Placed(self.axes, lambda name, axis: rng.random())))

    def near(
        self, values: Mapping[str, Any], spread: Mapping[str, float], rng: random.Random
    ) -> dict[str, Any]:
        """Draw a point that differs from another in some parameters.

        Each keeps its value, or moves by a normal step of its `spread`; words are drawn anew.
        """

        def place(name: str, axis: Axis) -> float:
            if name not in values or name not in spread:
                return rng.random()
            if rng.random() < 0.4:
                return axis.encode(values[name])
            if not axis.is_ordered:
                return rng.random()
            return min(max(axis.encode(values[name]) + rng.gauss(0.0, spread[name]), 0.0), 1.0)

        return dict(self._draw(_Placed(self.axes, place)))

    def spread(self, lengthscales: Vector, share: float) -> dict[str, float]:
        """Return, by parameter, a share of the model's length scale along its axis."""
        return {
            name: share * min(float(lengthscales[column]), 1.0)
            for name, column in self._columns.items()
        }


def _between(low: float, high: float, unit: float) -> float:
    return low + (high - low) * unit
