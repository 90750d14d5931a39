"""The picture: regret against budget, a panel for each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.curve_table import CurveTable
from benchmarks.scores import regret
from benchmarks.simulation import Course

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = tuple[CurveTable, Mapping[str, Sequence[Course]]]
"""A table and the courses of each method's seeds on it."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
"""Okabe and Ito's, told apart by colour-blind eyes too; the dashes change after a round."""
_DASHES = ("-", "--", ":")
_POINTS = 160
_COLUMNS = 3


def draw_regret(path: Path, panels: Sequence[Panel], *, budget: float) -> None:
    """Draw each method's median regret over its seeds and the band of the middle half."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.5 * rows), squeeze=False, layout="constrained"
    )
    try:
        for place, axis in enumerate(axes.flat):
            if place < len(panels):
                _draw_panel(axis, *panels[place], budget=budget)
            else:
                axis.set_axis_off()
        for axis in axes[:, 0]:
            axis.set_ylabel("regret (median, middle half)")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        figure.supxlabel("budget spent, in full trainings", fontsize="medium")
        figure.legend(
            lines, labels, loc="outside upper center", ncols=min(5, len(labels)), frameon=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def _draw_panel(
    axis: Axes, table: CurveTable, methods: Mapping[str, Sequence[Course]], *, budget: float
) -> None:
    # From a hundredth of the budget on: what is drawn is a search, not its first epoch.
    budgets = np.geomspace(budget / 100, budget, _POINTS)
    lowest, highest = np.inf, 0.0
    for place, (method, courses) in enumerate(methods.items()):
        low, middle, high = _quartiles(table, courses, budgets)
        colour = _COLOURS[place % len(_COLOURS)]
        dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
        axis.plot(budgets, middle, color=colour, linestyle=dashes, linewidth=1.8, label=method)
        axis.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
        lowest = min(lowest, float(np.min(middle[middle > 0], initial=np.inf)))
        highest = max(highest, float(middle.max()))
    if np.isfinite(lowest):
        # Logarithmic as far as the medians go, then even down to 0: the best row is within reach.
        even = max(lowest, highest * 1e-4)
        axis.set_yscale("symlog", linthresh=even, linscale=0.6)
        axis.set_ylim(-0.1 * even, highest * 1.3)
    axis.set_xscale("log")
    axis.set_xlim(budgets[0], budgets[-1])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_title(table.name, fontsize="medium")
    axis.grid(True, which="major", color="0.9", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)


def _quartiles(
    table: CurveTable, courses: Sequence[Course], budgets: NDArray[np.float64]
) -> NDArray[np.float64]:
    regrets = np.array([[regret(table, c, spent) for spent in budgets] for c in courses])
    quartiles: NDArray[np.float64] = np.quantile(regrets, (0.25, 0.5, 0.75), axis=0)
    return quartiles
