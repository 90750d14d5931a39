"""A search space as the unit cube: one axis a parameter, and points drawn define-by-run.

A model needs vectors; a space whose networks differ in depth has parameters that do not always
exist. Every parameter any draw may have gets an axis (several, for words without an order), and one
that does not exist in a point stands in the middle of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.config.axis import Axis, Placed
from search.config.dimension import Suggester

Vector = NDArray[np.float64]
_EXPLORING_DRAWS = 256


Draw = Callable[[Suggester], Mapping[str, Any]]
"""Asks for every parameter that exists, given those before it; returns them by name."""


class Cube:
    """The axes of a define-by-run space, and the ways to draw its points."""

    def __init__(self, draw: Draw) -> None:
        """Learn the axes from many draws, seeded: the same space has the same axes."""
        explorer = Placed.at_random(random.Random(0))
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
        return self._drawn(lambda name, _: by_name.get(name, 0.5))

    def anywhere(self, rng: random.Random) -> dict[str, Any]:
        """Draw a point uniformly."""
        return self._drawn(lambda name, axis: rng.random())

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

        return self._drawn(place)

    def spread(self, lengthscales: Vector, share: float) -> dict[str, float]:
        """Return, by parameter, a share of the model's length scale along its axis."""
        return {
            name: share * min(float(lengthscales[column]), 1.0)
            for name, column in self._columns.items()
        }

    def _drawn(self, place: Callable[[str, Axis], float]) -> dict[str, Any]:
        # A parameter that no exploring draw met has no axis in the cube; it is drawn all the same.
        return dict(self._draw(Placed(place, axes=self.axes)))
