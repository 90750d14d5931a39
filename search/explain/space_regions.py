"""Regions of the space in which trials failed, or were always weak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import hypergeom

from search.config.axis import Axis
from search.explain.effects import Sample, chance_where_drawn, fit_beside
from search.explain.space_change import End
from search.explain.space_findings import ALPHA, FEWEST, GRID, Finding

_FEWEST_FAILED = 4

Params = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Part of one key's values."""

    key: str
    names: tuple[str, ...]
    end: End | None
    value: Any
    """The choice; of an end, the innermost value that belongs to the region."""

    def has(self, params: Params) -> bool:
        """Whether a trial lies in it; of a key set block by block, whether one of its blocks."""
        mine = [params[name] for name in self.names if name in params]
        if self.end is None:
            return any(repr(value) == repr(self.value) for value in mine)
        return any(v >= self.value if self.end == "highest" else v <= self.value for v in mine)

    def applies(self, params: Params) -> bool:
        """Whether a trial has the key at all."""
        return any(name in params for name in self.names)

    def __str__(self) -> str:
        """Return it in words."""
        shown = f"{self.value:.3g}" if isinstance(self.value, float) else str(self.value)
        if self.end is None:
            return f"with {shown}"
        return f"from {shown} {'up' if self.end == 'highest' else 'down'}"


def failing(sample: Sample, keys: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return where trials failed that elsewhere did not; at most one region a key.

    The clearest region first; what it explains is not explained again by what its trials share.
    """
    bad, good = list(sample.failed), list(sample.sound)
    regions = [
        region
        for key, names in keys.items()
        for region in _regions(sample, key, names, [*bad, *good])
    ]
    best = [sample.params[row] for row in sample.best]
    left = [region for region in regions if not any(map(region.has, best))]
    found: list[Finding] = []
    while len(bad) >= _FEWEST_FAILED:
        tested = [(_chance(region, bad, good) * len(regions), region) for region in left]
        chance, region = min(tested, key=lambda pair: pair[0], default=(1.0, None))
        if region is None or chance > ALPHA:
            break
        mine = [params for params in (*bad, *good) if region.applies(params)]
        bad_in, inside = sum(map(region.has, bad)), sum(map(region.has, mine))
        bad_all = sum(map(region.applies, bad))
        evidence = (
            f"{bad_in} of {inside} trials {region} diverged or failed, against"
            f" {bad_all - bad_in} of {len(mine) - inside} elsewhere"
        )
        found.append(_finding(region, "failed", evidence, chance))
        left = [other for other in left if other.key != region.key]
        bad = [params for params in bad if not region.has(params)]
        good = [params for params in good if not region.has(params)]
    return found


def _chance(region: Region, bad: Sequence[Params], good: Sequence[Params]) -> float:
    """Return how likely chance puts so many of the failed trials into a region; 1 for too few."""
    bad_all, good_all = sum(map(region.applies, bad)), sum(map(region.applies, good))
    bad_in, good_in = sum(map(region.has, bad)), sum(map(region.has, good))
    inside, outside = bad_in + good_in, bad_all + good_all - bad_in - good_in
    if not outside or bad_in < _FEWEST_FAILED or 2 * bad_in < inside:
        return 1.0
    if 2 * (bad_all - bad_in) * inside > bad_in * outside:
        return 1.0  # elsewhere half as many failed, or more
    return float(hypergeom.sf(bad_in - 1, inside + outside, bad_all, inside))


def weak(sample: Sample, keys: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return choices, and outer thirds of ranges, in which trials were always weak."""
    if not sample.is_enough:
        return []
    regions = [region for key, names in keys.items() for region in _parts(sample, key, names)]
    better = np.argsort(-sample.values, kind="stable")[: len(sample.params) // 3]
    found = []
    for region in regions:
        rows = [row for row, params in enumerate(sample.params) if region.applies(params)]
        inside = np.array([region.has(sample.params[row]) for row in rows])
        if inside.sum() < FEWEST or len(rows) < sample.needed or inside.all():
            continue
        if any(region.has(sample.params[row]) for row in better):
            continue
        column = inside[:, None].astype(np.float64)
        fit = fit_beside(sample, region.names, rows, column)
        chance = min(1.0, fit.above(0, -1.0) * len(regions))
        if chance > ALPHA or chance_where_drawn(sample, rows, column, -1.0) > ALPHA:
            continue
        evidence = (
            f"none of the better third ({len(better)} trials) is {region}; the"
            f" {int(inside.sum())} that are lie {-100 * float(fit.estimates[0]):.2f} points lower,"
            " other parameters held"
        )
        found.append(_finding(region, "weak", evidence, chance))
    return found


def _finding(
    region: Region, kind: Literal["failed", "weak"], evidence: str, chance: float
) -> Finding:
    return Finding(
        key=region.key,
        kind=kind,
        evidence=evidence,
        chance=chance,
        end=region.end,
        value=region.value,
    )


def _regions(
    sample: Sample, key: str, names: Sequence[str], everyone: Sequence[Params]
) -> Iterator[Region]:
    axis = _axis(sample, names)
    if axis is None:
        return
    if not axis.is_ordered:
        yield from _choices(key, names, axis)
        return
    taken = sorted({p[name] for p in everyone for name in names if name in p})
    for value in taken[1:]:
        yield Region(key=key, names=tuple(names), end="highest", value=value)
    for value in taken[:-1]:
        yield Region(key=key, names=tuple(names), end="lowest", value=value)


def _axis(sample: Sample, names: Sequence[str]) -> Axis | None:
    return next((sample.cube.axes[name] for name in names if name in sample.cube.axes), None)


def _choices(key: str, names: Sequence[str], axis: Axis) -> Iterator[Region]:
    for choice in axis.choices:
        yield Region(key=key, names=tuple(names), end=None, value=choice)


def _parts(sample: Sample, key: str, names: Sequence[str]) -> Iterator[Region]:
    axis = _axis(sample, names)
    if axis is None:
        return
    if not axis.is_ordered:
        yield from _choices(key, names, axis)
        return
    if len(names) > 1 or len({axis.decode(float(unit)) for unit in GRID}) < 3:
        return
    yield Region(key=key, names=tuple(names), end="lowest", value=axis.decode(1 / 3 - 1e-6))
    yield Region(key=key, names=tuple(names), end="highest", value=axis.decode(2 / 3 + 1e-6))
