"""What the trials say about the space: bounds they press against, what did nothing, what failed.

Every finding has to pass a test that counts how many questions were asked, and a second one that
does not fall for a sampler which looks again where it has been lucky (`search.explain.effects`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from search.config.axis import Axis
from search.explain.effects import Sample, anything_matters, chance_where_drawn, fit_beside
from search.explain.space_change import End

ALPHA = 0.05
"""How often a study in which there is nothing may show one finding of a kind."""
_ZONE = 0.1
GRID = (np.arange(200) + 0.5) / 200
_NOTHING = 0.5
"""Of the standard deviation among the better half of the trials: a parameter whose parts lie no
further apart did nothing. Beside the worst trials everything would look small."""
_MATTERS = 0.01
FEWEST = 8  # trials in each part of a range

Kind = Literal["edge", "dead", "failed", "weak"]
Params = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the trials say about one key of the space."""

    key: str
    kind: Kind
    evidence: str
    """In numbers."""
    chance: float
    """How likely chance alone shows this, all questions of the kind counted; of `dead`: how likely
    it does more than is said."""
    end: End | None = None
    value: Any = None
    """Of `failed` and `weak`: the choice, or the value from which on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AtEnds:
    """How many of the best trials lie at the ends of a parameter's range."""

    end: End
    inside: int
    of: int
    expected: float
    """By chance."""
    chance: float
    slope: float
    """By how much accuracy rises over the half of the range next to this end, as a fraction."""
    slope_chance: float
    drawn_chance: float
    """The same among the trials whose place was drawn at random."""


def at_ends(sample: Sample, name: str) -> list[AtEnds]:
    """Return how the best trials lie at the ends of a parameter; of one without an order, nothing.

    So for fewer than three values: of two, both are ends.
    """
    if name not in sample.cube.axes:
        return []
    axis, rows = sample.axis(name), sample.rows_with(name)
    grid = [axis.decode(float(unit)) for unit in GRID]
    if not axis.is_ordered or len(set(grid)) < 3 or len(rows) < sample.needed:
        return []
    even, places = np.array([axis.encode(value) for value in grid]), sample.places(name, rows)
    chosen = set(sample.best)
    best = np.array([place for row, place in zip(rows, places, strict=True) if row in chosen])
    found = []
    ends: tuple[End, ...] = ("lowest", "highest")
    for end in ends:
        # How far from the end, 0 to 1.
        off, off_even, off_best = (x if end == "lowest" else 1.0 - x for x in (places, even, best))
        width = max(_ZONE, float(off_even.min()) + 1e-9)
        share = float(np.mean(off_even <= width))
        inside = int(np.sum(off_best <= width))
        near, far = np.maximum(0.5 - off, 0.0), np.maximum(off - 0.5, 0.0)
        columns = np.column_stack([near, far])
        fit = fit_beside(sample, (name,), rows, columns)
        found.append(
            AtEnds(
                end=end,
                inside=inside,
                of=len(best),
                expected=share * len(best),
                chance=float(binom.sf(inside - 1, len(best), share)) if len(best) else 1.0,
                slope=float(fit.estimates[0]) * 0.5,
                slope_chance=fit.above(0),
                drawn_chance=chance_where_drawn(sample, rows, columns, 1.0),
            )
        )
    return found


def edges(ends: Mapping[str, Sequence[AtEnds]], keys: Mapping[str, str]) -> list[Finding]:
    """Return the bounds that the best trials press against, at most one of each key and end.

    Args:
        ends: What `at_ends` says, by parameter.
        keys: Parameter -> its key of the space.
    """
    asked = sum(map(len, ends.values()))
    found: dict[tuple[str, End], Finding] = {}
    for name, both in ends.items():
        for one in both:
            chance = min(1.0, one.chance * asked)
            if chance > ALPHA or one.inside < 0.4 * one.of or one.slope_chance * asked > ALPHA:
                continue
            if one.drawn_chance > ALPHA:
                continue
            known = found.get((keys[name], one.end))
            if known is None or chance < known.chance:
                evidence = (
                    f"{one.inside} of the {one.of} best have {name} at its {one.end} end, where"
                    f" chance puts {one.expected:.1f}; towards it accuracy rises by"
                    f" {100 * one.slope:.2f} points over half the range, other parameters held"
                    f" (p {_p(one.slope_chance)}; where trials were drawn at random, p"
                    f" {_p(one.drawn_chance)})"
                )
                found[keys[name], one.end] = Finding(
                    key=keys[name], kind="edge", evidence=evidence, chance=chance, end=one.end
                )
    return list(found.values())


def dead(
    sample: Sample, keys: Mapping[str, Sequence[str]], shares: Mapping[str, float]
) -> list[Finding]:
    """Return the keys that did nothing, by what most may have been overlooked.

    Args:
        sample: The trials.
        keys: Key -> its parameters.
        shares: Importance by parameter; empty where it is not known.
    """
    # Where nothing tells trials apart, noise hides what there is.
    if not sample.is_enough or anything_matters(sample) > _MATTERS:
        return []
    spread = float(np.std(sample.values[sample.values >= np.median(sample.values)]))
    found = []
    for key, names in keys.items():
        bounds = [_most_apart(sample, name) for name in names]
        share = sum(shares.get(name, 0.0) for name in names)
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds) or not known or max(known) > _NOTHING * spread:
            continue
        if shares and share > len(names) / len(shares):
            continue
        words = f"; {100 * share:.0f} % of the importance" if shares else ""
        evidence = (
            f"parts of its range lie at most {100 * max(known):.2f} points apart (95 % sure, other"
            f" parameters held); the better half of all trials has a spread of"
            f" {100 * spread:.2f}{words}"
        )
        found.append(Finding(key=key, kind="dead", evidence=evidence, chance=ALPHA))
    return found


def _most_apart(sample: Sample, name: str) -> float | None:
    """Return how far the parts of a parameter lie apart at most; None where it cannot be told."""
    if name not in sample.cube.axes:
        return None
    axis, rows = sample.axis(name), sample.rows_with(name)
    if len(rows) < sample.needed:
        return None
    part = _part_of(axis, [sample.params[row][name] for row in rows])
    groups = sorted(set(part))
    if len(groups) < 2 or any((part == group).sum() < FEWEST for group in groups):
        return None
    columns = np.column_stack([(part == group).astype(np.float64) for group in groups[1:]])
    return fit_beside(sample, (name,), rows, columns).most_apart(ALPHA)


def _part_of(axis: Axis, values: Sequence[Any]) -> NDArray[np.int64]:
    if not axis.is_ordered:
        return np.array([axis.choices.index(value) for value in values])
    return np.array([min(int(3 * axis.encode(value)), 2) for value in values])


def _p(chance: float) -> str:
    return "below 0.0001" if chance < 1e-4 else f"{chance:.2g}"
