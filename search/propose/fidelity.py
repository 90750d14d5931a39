"""Values from different rungs on one scale: what each says about the highest rung reached so far.

A trial stopped at epoch 3 and one at epoch 27 are not equals. Trials that were seen at two levels
show how values change from one to the next; the change is applied to those that were not, level by
level, and what it leaves unexplained becomes the variance of their observation. So low rungs guide
while there is nothing else, and fade as higher ones speak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """Observations on the scale of one level."""

    level: int
    """Index of the level whose scale it is."""
    values: Vector
    """(n,) expected values at that level."""
    variances: Vector
    """(n,) 0 for values seen at the level itself."""


def to_one_scale(curves: Sequence[Mapping[int, float]]) -> Scaled:
    """Bring trials' values to the highest level that any of them has reached.

    Args:
        curves: For each trial, index of a level -> value there. None is empty; every trial has the
            levels below its highest one.
    """
    top = max(max(curve) for curve in curves)
    floor = _floor([curve[min(curve)] for curve in curves])
    spread = float(np.std([max(c[min(c)], floor) for c in curves])) + 1e-12
    slopes, shifts, residuals = _steps(curves, top, floor, spread)
    values, variances = [], []
    for curve in curves:
        level = max(curve)
        value, variance = max(curve[level], floor), 0.0
        for step in range(level, top):
            value = slopes[step] * value + shifts[step]
            variance = slopes[step] ** 2 * variance + residuals[step] ** 2
        values.append(value)
        variances.append(variance)
    return Scaled(level=top, values=np.array(values), variances=np.array(variances))


def compress_lower_half(scaled: Scaled) -> Scaled:
    """Return the values with those below the median drawn towards it, in a logarithmic way.

    A search asks which of the good ones is better; a model of all differences alike would spend its
    smoothness on how bad the bad ones are.
    """
    middle = float(np.median(scaled.values))
    above = scaled.values[scaled.values >= middle] - middle
    unit = float(np.sqrt(np.mean(above**2))) + 1e-12
    depth = np.maximum(middle - scaled.values, 0.0) / unit
    values = np.where(depth > 0, middle - unit * np.log1p(depth), scaled.values)
    # To first order; what is known badly stays so.
    return Scaled(
        level=scaled.level, values=values, variances=scaled.variances / (1.0 + depth) ** 2
    )


def _steps(
    curves: Sequence[Mapping[int, float]], top: int, floor: float, spread: float
) -> tuple[list[float], list[float], list[float]]:
    slopes, shifts, residuals = [], [], []
    for level in range(top):
        pairs = [(c[level], c[level + 1]) for c in curves if level in c and level + 1 in c]
        if not pairs:
            slopes.append(1.0)
            shifts.append(0.0)
            residuals.append(0.5 * spread)
            continue
        seen = np.maximum(np.array(pairs), floor)
        middle = seen.mean(0)
        before, after = (seen - middle).T
        # Few pairs, all of them good ones: the slope is drawn towards 1, the residual towards a
        # share of the spread, each as if a few more pairs had shown it.
        prior = 3 * (0.3 * spread) ** 2
        slope = float((before @ after + prior) / (before @ before + prior))
        slope = min(max(slope, 0.05), 2.0)
        rest = after - slope * before
        variance = (float(rest @ rest) + 2 * (0.3 * spread) ** 2) / (len(pairs) + 2)
        slopes.append(slope)
        shifts.append(float(middle[1] - slope * middle[0]))
        residuals.append(variance**0.5)
    return slopes, shifts, residuals


def _floor(values: Sequence[float]) -> float:
    # What failed to learn at all is bad, how bad does not matter: one loss of 1e16 would make all
    # others look alike.
    quarter, half = np.quantile(values, [0.25, 0.5])
    return float(quarter - 3.0 * (half - quarter + 1e-12))
