"""What repeated trainings say of the true accuracies of a few networks.

Every round trains each network once, on a newly drawn split with a fresh seed; within a round all
have the same split, so that they are compared on equal images. A value is read as

    accuracy of i in round r = (true accuracy of i) + (luck of round r) + noise

fitted by least squares, with one variance for all noise. What is believed of the true accuracies is
the Student distribution that follows, with a flat prior for them, and for the variance that of two
earlier observations of the binomial variance of one accuracy. Rounds are not independent, since
their training images overlap: variances of means are enlarged by the correction of Nadeau and
Bengio ("Inference for the Generalization Error", Machine Learning 52, 2003, p. 239-281).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_PRIOR_FREEDOM = 2.0
_DRAWS = 20000

Values = Mapping[str, Sequence[float | None]]
"""Accuracies of each finalist by round, None where it diverged; who left has fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """What the values so far say of the finalists' true accuracies."""

    names: tuple[str, ...]
    means: NDArray[np.float64]
    """(k,) accuracies, with the luck of the rounds taken out."""
    covariance: NDArray[np.float64]
    """(k, k) of the means, as far as their differences go."""
    freedom: float
    """Degrees of freedom of the Student distribution."""

    def p_best(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return by name the probability to be the best, and how much better the best may be.

        The second is the expected accuracy lost by choosing this one. Both are drawn, seeded.
        """
        draw = np.random.default_rng(0)
        k = len(self.names)
        normal = draw.multivariate_normal(np.zeros(k), self.covariance, _DRAWS, method="eigh")
        scale = np.sqrt(self.freedom / draw.chisquare(self.freedom, (_DRAWS, 1)))
        # Means told to the last bit may be equal: chance, not their order, decides then.
        drawn = self.means + normal * scale
        best = np.bincount(drawn.argmax(axis=1), minlength=k) / _DRAWS
        lost = (drawn.max(axis=1, keepdims=True) - drawn).mean(axis=0)
        return (
            dict(zip(self.names, best.tolist(), strict=True)),
            dict(zip(self.names, lost.tolist(), strict=True)),
        )

    def error_between(self, one: str, other: str) -> float:
        """Return the standard error of the difference of two means."""
        i, j = self.names.index(one), self.names.index(other)
        c = self.covariance
        return math.sqrt(max(c[i, i] + c[j, j] - 2 * c[i, j], 0.0))


def believe(values: Values, *, validation_images: int, train_images: int) -> Belief:
    """Return what is believed of finalists with a value in every round they were in.

    Args:
        values: Of those who did not diverge; one round of one finalist at least.
        validation_images: Images of each round's validation part.
        train_images: Images of each round's training part.
    """
    names = tuple(values)
    cells = [
        (i, r, float(value))
        for i, name in enumerate(names)
        for r, value in enumerate(values[name])
        if value is not None
    ]
    k, rounds = len(names), 1 + max(r for _, r, _ in cells)
    design = np.zeros((len(cells), k + rounds))
    observed = np.array([value for _, _, value in cells])
    for row, (i, r, _) in enumerate(cells):
        design[row, i] = design[row, k + r] = 1.0
    # Round effects sum to zero: one row more fixes what the others leave open.
    fixing = np.concatenate([np.zeros(k), np.ones(rounds)])[None, :]
    whole = np.vstack([design, fixing])
    fitted = np.linalg.lstsq(whole, np.append(observed, 0.0), rcond=None)[0]
    residual = float(((observed - design @ fitted) ** 2).sum())
    freedom = max(len(cells) - (k + rounds - 1), 0)
    prior = _binomial(float(observed.mean()), validation_images)
    variance = (residual + _PRIOR_FREEDOM * prior) / (freedom + _PRIOR_FREEDOM)
    spread = np.linalg.pinv(whole.T @ whole)[:k, :k]
    inflation = 1.0 + rounds * validation_images / train_images
    return Belief(
        names=names,
        means=fitted[:k],
        covariance=variance * inflation * spread,
        freedom=freedom + _PRIOR_FREEDOM,
    )


def _binomial(accuracy: float, images: int) -> float:
    # Never nothing: of few images all may be right.
    return max(accuracy * (1 - accuracy), 1 / images) / images


def optimism(
    values: Values,
    name: str,
    search_value: float,
    *,
    validation_images: int,
    train_images: int,
) -> dict[str, Any] | None:
    """Return by how much the search's value of a configuration was too high; None if it diverged.

    `remeasured` is the plain mean over its rounds, `ci95` the Student interval of the optimism. The
    variance of one value is pooled over all finalists, luck of the rounds included.
    """
    own = list(values.get(name, ()))
    if not own or None in own:
        return None
    numbers = np.array(own, dtype=np.float64)
    squares, freedom = _PRIOR_FREEDOM * _binomial(float(numbers.mean()), validation_images), 0.0
    for row in values.values():
        known = np.array([v for v in row if v is not None], dtype=np.float64)
        if len(known) > 1:
            squares += float(((known - known.mean()) ** 2).sum())
            freedom = max(freedom, len(known) - 1.0)
    pooled = sum(max(sum(v is not None for v in row) - 1, 0) for row in values.values())
    variance = squares / (pooled + _PRIOR_FREEDOM)
    error = math.sqrt(variance * (1 / len(numbers) + validation_images / train_images))
    gap = search_value - float(numbers.mean())
    # Finalists share the rounds' luck: their number of rounds, not of values, is what is known.
    half = float(stats.t.ppf(0.975, freedom + _PRIOR_FREEDOM)) * error
    return {
        "trial": name,
        "search_value": search_value,
        "remeasured": float(numbers.mean()),
        "optimism": gap,
        "ci95": [gap - half, gap + half],
    }
