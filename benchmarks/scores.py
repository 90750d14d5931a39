"""From courses to figures: regret, cost to a target, ranks, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.curve_table import CurveTable
from benchmarks.simulation import Course

MARKS = (10.0, 30.0, 100.0)
"""Budgets at which regret is told, in full trainings."""
TOP_SHARES = (0.005, 0.001)
"""Targets of every table: the values that these shares of its rows reach."""
_RESAMPLES = 2000


def marks(budget: float) -> list[float]:
    """Return the budgets to tell regret at: those of `MARKS` below the budget, and it."""
    return [mark for mark in MARKS if mark < budget] + [budget]


def regret(table: CurveTable, course: Course, spent: float) -> float:
    """Return how far the final value of the configuration to return at `spent` is from the best.

    It is 0 or more, in the table's own unit. With nothing to return yet, or a configuration that
    diverges before its last epoch, it is the regret of the table's median row.
    """
    last = int(np.searchsorted(course.spent, spent, side="right")) - 1
    final = course.finals[last] if last >= 0 else np.nan
    return table.best - float(final if np.isfinite(final) else table.median_final)


def spent_until(course: Course, target: float, budget: float) -> float:
    """Return when the configuration to return first was one that reaches `target`, or infinity.

    In full trainings; `target` counts in turned values (higher is better).
    """
    hits = np.nonzero((course.finals >= target) & (course.spent <= budget))[0]
    return float(course.spent[hits[0]]) if len(hits) else np.inf


def targets_of(table: CurveTable, wanted: Sequence[float]) -> dict[str, float]:
    """Return the targets' names and values, in turned values.

    `wanted` are in the table's own unit. They apply where they lie between the median row's final
    value and the best one: what most rows reach is no target.
    """
    targets = {}
    for value in wanted:
        if table.median_final < table.sign * value <= table.best:
            targets[f"{value:g}"] = table.sign * value
    falling = np.sort(table.finals[np.isfinite(table.finals)])[::-1]
    for share in TOP_SHARES:
        rank = min(max(1, round(share * table.num_rows)), len(falling))
        targets[f"top {share:.1%}".replace("%", " %")] = float(falling[rank - 1])
    return targets


def summarise(
    table: CurveTable, courses: Sequence[Course], *, budget: float, targets: Mapping[str, float]
) -> dict[str, Any]:
    """Return one method's figures on one table, JSON-plain; `courses` are those of its seeds."""
    found: dict[str, dict[str, Any]] = {
        key: {}
        for key in ("regret_mean", "regret_sem", "regret_median", "regret_interval", "regret")
    }
    for mark in marks(budget):
        key = f"{mark:g}"
        regrets = np.array([regret(table, course, mark) for course in courses])
        found["regret_mean"][key] = float(regrets.mean())
        found["regret_sem"][key] = _standard_error(regrets)
        found["regret_median"][key] = float(np.median(regrets))
        found["regret_interval"][key] = bootstrap_interval(regrets)
        found["regret"][key] = regrets.tolist()
    asks = np.concatenate([course.ask_seconds for course in courses])
    return found | {
        "to_target": {name: _to_target(table, courses, at, budget) for name, at in targets.items()},
        "seeds": len(courses),
        "spent": float(np.mean([course.total for course in courses])),
        "trials": float(np.mean([course.trials for course in courses])),
        "duplicates": float(np.mean([course.duplicates for course in courses])),
        "ask_seconds_share": float(np.mean([course.thinking for course in courses])),
        "ask_p95_ms": float(np.quantile(asks, 0.95) * 1000),
    }


def rank_methods(regrets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks within each table and seed, 1 for the least regret, equals averaged.

    (tables, seeds, methods) to the same shape.
    """
    own, others = regrets[..., :, None], regrets[..., None, :]
    # The method itself is among its equals: their places' mean is 1 + better + (equals - 1) / 2.
    places: NDArray[np.float64] = 0.5 + (others < own).sum(axis=3) + (others == own).sum(axis=3) / 2
    return places


def summarise_ranks(
    ranks: NDArray[np.float64], methods: Sequence[str], *, against: str
) -> dict[str, Any]:
    """Return each method's mean rank and, if it took part, its mean difference to `against`.

    The intervals are over seeds: a seed's ranks are averaged over the tables first.
    """
    of_seeds = ranks.mean(axis=0)
    found: dict[str, Any] = {}
    for index, method in enumerate(methods):
        found[method] = {
            "mean": float(of_seeds[:, index].mean()),
            "interval": bootstrap_interval(of_seeds[:, index]),
        }
        if against in methods and method != against:
            differences = of_seeds[:, index] - of_seeds[:, methods.index(against)]
            found[method][f"minus {against}"] = {
                "mean": float(differences.mean()),
                "interval": bootstrap_interval(differences),
            }
    return found


def bootstrap_interval(values: NDArray[np.float64]) -> list[float]:
    """Return the 95 % percentile interval of the mean, the same for the same values."""
    picks = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    return [float(edge) for edge in np.quantile(values[picks].mean(axis=1), (0.025, 0.975))]


def _standard_error(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _to_target(
    table: CurveTable, courses: Sequence[Course], target: float, budget: float
) -> dict[str, float | None]:
    spent = np.sort([spent_until(course, target, budget) for course in courses])
    return {
        "value": table.sign * target,
        "q25": _quantile(spent, 0.25),
        "median": _quantile(spent, 0.5),
        "q75": _quantile(spent, 0.75),
        "share": float(np.isfinite(spent).mean()),
    }


def _quantile(ordered: NDArray[np.float64], share: float) -> float | None:
    """Return a quantile of values of which some may be infinite; None where it is."""
    place = share * (len(ordered) - 1)
    low, high = ordered[int(place)], ordered[int(np.ceil(place))]
    if not np.isfinite(high):
        return None
    return float(low + (high - low) * (place - int(place)))
