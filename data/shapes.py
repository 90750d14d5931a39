"""Measure distances to simple shapes, for drawing many pictures at once.

Each shape is an array of signed distances (n, H, W) float32 for n pictures: below 0 inside the
shape, in units of half a picture's width. Joins: `minimum` unites, `maximum` intersects, minus
inverts. Number arguments are floats or arrays (n, 1, 1), one number a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Number = float | Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """Give n pictures' points in garment space and the random numbers to draw with."""

    x: Array
    """(n, H, W) from -1 (left) to 1."""

    y: Array
    """(n, H, W) from -1 (top) to 1."""

    generator: np.random.Generator
    """Every choice is drawn from it, in the order of the calls."""

    def draw(self, low: float, high: float) -> Array:
        """Draw a number for each picture, even between `low` and `high`: (n, 1, 1)."""
        numbers = self.generator.uniform(low, high, size=(len(self.x), 1, 1))
        return numbers.astype(np.float32)

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """Draw yes or no for each picture: (n, 1, 1)."""
        return self.generator.random((len(self.x), 1, 1)) < probability


def profile(along: Array, across: Array, points: Sequence[tuple[Number, Number]]) -> Array:
    """Bound `|across|` by a width that runs straight from point to point of (along, half-width).

    The shape ends at the first and the last point; `along` grows from one point to the next.
    """
    ends = np.maximum(points[0][0] - along, along - points[-1][0])
    return np.asarray(np.maximum(np.abs(across) - line_through(along, points), ends))


def line_through(along: Array, points: Sequence[tuple[Number, Number]]) -> Array:
    """Return the height over `along` of a line from point to point of (along, height)."""
    height: Array = np.asarray(points[0][1], dtype=np.float32)
    for (start, before), (end, after) in pairwise(points):
        slope = (after - before) / (end - start)
        height = height + slope * np.clip(along - start, 0, end - start)
    return height


def limb(
    canvas: Canvas,
    start: tuple[Number, Number],
    end: tuple[Number, Number],
    radius_start: Number,
    radius_end: Number,
) -> Array:
    """Draw a round-ended bar from `start` to `end` (x, y), its radius changing evenly."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    from_x, from_y = canvas.x - start[0], canvas.y - start[1]
    share = np.clip((from_x * dx + from_y * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.hypot(from_x - share * dx, from_y - share * dy)
    return np.asarray(distance - (radius_start + (radius_end - radius_start) * share))


def ellipse(canvas: Canvas, centre: tuple[Number, Number], radii: tuple[Number, Number]) -> Array:
    """Draw an ellipse around `centre` (x, y); the distance is near enough close to its edge."""
    across, down = radii
    ratio = np.hypot((canvas.x - centre[0]) / across, (canvas.y - centre[1]) / down)
    return np.asarray((ratio - 1) * np.minimum(across, down))


def ring(
    canvas: Canvas,
    centre: tuple[Number, Number],
    radii: tuple[Number, Number],
    thickness: Number,
) -> Array:
    """Draw the outline of an ellipse, `thickness` to either side of the line."""
    return np.asarray(np.abs(ellipse(canvas, centre, radii)) - thickness)


def cover(distance: Array, softness: Number) -> Array:
    """Turn distances into the share of each pixel that is covered, in [0, 1]."""
    return np.asarray(np.clip(0.5 - distance / softness, 0, 1))
