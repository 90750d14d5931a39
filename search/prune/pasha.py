"""PASHA: let the longest training grow only while the ranking of the best trials still changes.

Bohdal et al., "PASHA: Efficient HPO and NAS with Progressive Resource Allocation", ICLR 2023,
arXiv:2207.06940. Two trials whose values differ by less than epsilon may swap places; epsilon is
estimated from pairs of trials that have overtaken each other back and forth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PERCENTILE = 90.0
"""N in the paper: epsilon is this percentile of the differences of pairs that criss-cross."""


class Pasha:
    """How far trials may train for now."""

    def __init__(self, levels: Sequence[int]) -> None:
        """Grow along `levels`: the rungs and then R, in epochs, rising; at least two."""
        self._levels = list(levels)
        self._top = 1  # the paper starts with two rungs: one ranking to compare with another
        self._curves: dict[int, dict[int, float]] = {}

    @property
    def ceiling(self) -> int:
        """Return the number of epochs at which trials wait for now."""
        return self._levels[self._top]

    @property
    def epsilon(self) -> float:
        """Return how much two values may differ and yet count as equal."""
        waiting = [curve for curve in self._curves.values() if self.ceiling in curve]
        epochs = sorted({epoch for curve in waiting for epoch in curve})
        shape = (len(waiting), len(waiting))
        # Of every pair: who was ahead last, how often that changed, the largest difference.
        ahead = np.zeros(shape, dtype=np.int8)
        changes, largest = np.zeros(shape, dtype=np.int16), np.zeros(shape)
        for epoch in epochs:
            values = np.array([curve.get(epoch, np.nan) for curve in waiting])
            differences = np.nan_to_num(values[:, None] - values[None, :])
            now = np.sign(differences).astype(np.int8)
            changes += now * ahead < 0
            ahead = np.where(now == 0, ahead, now)
            largest = np.maximum(largest, np.abs(differences))
        # Ahead, behind, ahead again: neither is the better one as far as can be seen.
        crossing = largest[np.triu(changes >= 2, 1)]
        return float(np.percentile(crossing, _PERCENTILE)) if crossing.size else 0.0

    def note(self, trial: int, epoch: int, value: float) -> None:
        """Add a trial's best value by an epoch; raise the ceiling if rankings changed there."""
        self._curves.setdefault(trial, {})[epoch] = value
        grows = self._top < len(self._levels) - 1
        if epoch == self.ceiling and grows and not self._ranking_is_stable():
            self._top += 1

    def _ranking_is_stable(self) -> bool:
        low, high = self._levels[self._top - 1], self.ceiling
        both = [c for c in self._curves.values() if low in c and high in c]
        if len(both) < 2:
            return True
        before = sorted(both, key=lambda curve: -curve[low])
        now = sorted(both, key=lambda curve: -curve[high])
        if all(was is stands for was, stands in zip(before, now, strict=True)):
            return True  # as it mostly is; epsilon takes long
        epsilon = self.epsilon
        # Soft ranking: at every place, the trial that stood there before may be any of those that
        # are within epsilon of the one that stands there now.
        return all(
            abs(was[high] - stands[high]) <= epsilon or was is stands
            for was, stands in zip(before, now, strict=True)
        )
