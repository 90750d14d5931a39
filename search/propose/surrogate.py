"""A Gaussian process over the unit cube, with its own noise for every observation.

Matern 5/2 kernel with a length scale a dimension (Rasmussen and Williams, 2006, chapters 2, 4, 5).
Sizes stay at a few hundred observations, so plain NumPy answers in milliseconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import ndtr

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_JITTER = 1e-6
_LENGTH, _LENGTH_SPREAD = 0.5, 0.8
_NOISE, _NOISE_SPREAD = 0.02, 1.5
"""Log-normal priors: median and standard deviation of the logarithm. Values have variance 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """What the likelihood is maximised over."""

    lengthscales: tuple[float, ...]
    noise: float
    """Variance of what the model cannot explain, for observations without noise of their own."""

    @classmethod
    def start(cls, dimensions: int) -> Hyperparameters:
        """Return the medians of the priors."""
        return cls(lengthscales=(_LENGTH,) * dimensions, noise=_NOISE)


class Surrogate:
    """A posterior over functions of the cube, given observations of mean 0 and variance 1."""

    def __init__(self, points: Matrix, values: Vector, noise: Vector, hyper: Hyperparameters):
        """Condition on `points` (n, d), `values` (n,) and the variances `noise` (n,)."""
        self.hyper = hyper
        self._scale = np.asarray(hyper.lengthscales)
        self._points = points
        covariance = _matern(points / self._scale, points / self._scale)
        covariance[np.diag_indices_from(covariance)] += noise + hyper.noise + _JITTER
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), values, check_finite=False)
        self._whitened = solve_triangular(self._factor, values, lower=True, check_finite=False)

    @property
    def log_posterior(self) -> float:
        """Return the log likelihood plus the log priors, up to a constant."""
        likelihood = -0.5 * float(self._whitened @ self._whitened)
        likelihood -= float(np.log(np.diag(self._factor)).sum())
        lengths = (np.log(self._scale) - np.log(_LENGTH)) / _LENGTH_SPREAD
        noise = (np.log(self.hyper.noise) - np.log(_NOISE)) / _NOISE_SPREAD
        return likelihood - 0.5 * float(lengths @ lengths) - 0.5 * float(noise**2)

    def mean(self, points: Matrix) -> Vector:
        """Return the posterior mean (m,) at `points` (m, d)."""
        mean: Vector = _matern(points / self._scale, self._points / self._scale) @ self._weights
        return mean

    def mean_and_deviation(self, points: Matrix) -> tuple[Vector, Vector]:
        """Return the posterior mean and standard deviation (m,) each at `points` (m, d)."""
        cross = _matern(points / self._scale, self._points / self._scale)
        reduced = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(1.0 - np.einsum("ij,ij->j", reduced, reduced), 1e-9)
        return cross @ self._weights, np.sqrt(variance)


def fit(
    points: Matrix,
    values: Vector,
    noise: Vector,
    start: Hyperparameters,
    *,
    steps: int,
    rng: random.Random,
) -> Surrogate:
    """Return the surrogate of the best hyperparameters that a short random climb finds.

    `start` is where the climb of the proposal before ended, so that a few steps are enough.
    """
    best = Surrogate(points, values, noise, start)
    reached = best.log_posterior
    for _ in range(steps):
        logs = [*np.log(best.hyper.lengthscales), float(np.log(best.hyper.noise))]
        moved = [x + rng.gauss(0.0, 0.35) if rng.random() < 0.4 else x for x in logs]
        # Rounded, because they are written down and read again by the next proposal.
        rounded = [short(np.exp(min(max(x, -9.0), 5.0))) for x in moved]
        hyper = Hyperparameters(lengthscales=tuple(rounded[:-1]), noise=rounded[-1])
        try:
            tried = Surrogate(points, values, noise, hyper)
        except np.linalg.LinAlgError:
            continue
        if (score := tried.log_posterior) > reached:
            best, reached = tried, score
    return best


def expected_improvement(mean: Vector, deviation: Vector, best: float) -> Vector:
    """Return the expected improvement over `best` (Jones et al., 1998), for maximisation."""
    gain = (mean - best) / deviation
    density = np.exp(-0.5 * gain**2) / np.sqrt(2 * np.pi)
    improvement: Vector = deviation * (gain * ndtr(gain) + density)
    return improvement


def short(number: float) -> float:
    """Return a number with six digits, as it is written down."""
    return float(f"{number:.6g}")


def _matern(left: Matrix, right: Matrix) -> Matrix:
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2.0 * left @ right.T
    distance = np.sqrt(5.0 * np.maximum(squares, 1e-12))
    result: Matrix = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    return result
