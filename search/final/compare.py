"""What the winner's answers on the test images are worth against the best baseline's.

Everything here is computed from answers that one look has given; no image is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from model.softmax import softmax

_RESAMPLES = 2000


def bootstrap_interval(correct: NDArray[np.bool_]) -> list[float]:
    """Return the 95 % percentile bootstrap interval of the mean accuracy.

    Args:
        correct: (seeds, N) bool. Images are drawn with replacement, together for all seeds, and so
            are the seeds: both the test set and the training are samples. (Efron 1979.) With one
            seed the interval speaks of the test images only.
    """
    return _interval([correct])


def compare(
    winner: NDArray[np.bool_], baseline: NDArray[np.bool_], *, name: str, models: Sequence[str]
) -> dict[str, Any]:
    """Compare a winner with a baseline on the same test images.

    McNemar's exact test (Psychometrika 12, 1947, p. 153-157; two-sided binomial) is of the first
    model of each, `models`, of which the winner's is the one that is exported: if both were right
    equally often, how probable would so uneven a split of the images be that only one got right?
    `difference` is of the means over all seeds, `ci95` its paired bootstrap interval.

    Args:
        winner: (seeds, N) bool, right or wrong.
        baseline: (seeds, N) bool, of the same images.
        name: Of the baseline.
        models: Names of the winner's and the baseline's first model.
    """
    only_winner = int((winner[0] & ~baseline[0]).sum())
    only_baseline = int((baseline[0] & ~winner[0]).sum())
    apart = only_winner + only_baseline
    p_value = float(stats.binomtest(only_winner, apart, 0.5).pvalue) if apart else 1.0
    return {
        "baseline": name,
        "models": list(models),
        "only_winner_right": only_winner,
        "only_baseline_right": only_baseline,
        "p_value": p_value,
        "difference": float(winner.mean() - baseline.mean()),
        "ci95": _interval([winner, baseline]),
    }


def extra_rows(
    answers: Sequence[NDArray[np.float32]],
    mirrored: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Return what averaging answers gives: rows of their own, chosen by nobody.

    Probabilities are averaged (softmax of the logits). An ensemble costs as many networks as it has
    seeds; flip averaging costs two passes.

    Args:
        answers: Logits (N, K) of each of the winner's seeds.
        mirrored: Those of the mirrored images.
        labels: (N,).
    """
    plain = [softmax(logits) for logits in answers]
    both = [(p + softmax(q)) / 2 for p, q in zip(plain, mirrored, strict=True)]
    seeds = len(plain)
    rows = [("flip", "flip averaging, mean over seeds", both)]
    if seeds > 1:
        rows += [
            ("ensemble", f"ensemble of {seeds} seeds", [sum_of(plain)]),
            ("ensemble+flip", f"ensemble of {seeds} seeds, flip averaging", [sum_of(both)]),
        ]
    found = []
    for kind, name, shares in rows:
        right = np.stack([share.argmax(axis=1) == labels for share in shares])
        accuracy = {"test_accuracy": float(right.mean()), "ci95": bootstrap_interval(right)}
        found.append({"name": name, "kind": kind} | accuracy)
    return found


def sum_of(shares: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of probabilities (N, K), whose largest is that of their mean."""
    total: NDArray[np.float64] = np.sum(shares, axis=0)
    return total


def _interval(groups: Sequence[NDArray[np.bool_]]) -> list[float]:
    # Of the first mean, less the second where there is one: the same images for both.
    draw = np.random.default_rng(0)
    images = groups[0].shape[1]
    tables = [group.astype(np.float32) for group in groups]
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        weights = np.bincount(draw.integers(images, size=images), minlength=images)
        drawn = [(t[draw.integers(len(t), size=len(t))] @ weights).mean() / images for t in tables]
        means[i] = drawn[0] - sum(drawn[1:])
    low, high = np.quantile(means, (0.025, 0.975))
    return [float(low), float(high)]
