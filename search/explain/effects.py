"""What one parameter did while the others did what they did: least squares over all trials.

A sampler looks again where it has been lucky, so the best trials share values that do nothing. Only
a comparison that holds the other parameters' linear effect fixed may say that a value is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from search.config.axis import Axis
from search.config.cube import Cube
from search.propose.evidence import curve_of
from search.propose.fidelity import compress_lower_half, to_one_scale
from search.propose.fidelity_sampler import UNTRAINABLE
from search.prune.settle import rungs_of
from search.record.study import Study, Trial

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

_FREEDOM = 20
"""Trials there must be beyond the columns of the model."""
_DRAWN = ("start", "exploration", "nothing observed yet", "no candidate can be", "random")
"""What proposals that were drawn are based on."""
_FEWEST_DRAWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The trials of a study that lie in its space."""

    cube: Cube
    params: Sequence[Mapping[str, Any]]
    """(n,) of the trials that have a value."""
    values: Vector
    """(n,) validation accuracy on the scale of the highest rung; bad ones drawn together."""
    weights: Vector
    """(n,) less than 1 where a value from a lower rung says little."""
    late: Sequence[float] = ()
    """(n,) when a trial was proposed: 0 the first, 1 the last."""
    drawn: Sequence[int] = ()
    """Rows of the trials whose place was drawn, not chosen: nothing else goes with it."""
    best: Sequence[int] = field(default_factory=list)
    """Rows of the best fifth (5 to 20 of them), the best first."""
    failed: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """Parameters of the trials that diverged, did not fit into memory, or failed."""
    sound: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """Parameters of the others that were trained."""

    @property
    def needed(self) -> int:
        """Return how many trials with a value a comparison needs."""
        return self.cube.width + len(self.bent) + 2 + _FREEDOM

    @property
    def bent(self) -> list[int]:
        """Return the columns whose squares are taken too: numbers of three or more values."""
        columns, column = [], 0
        for axis in self.cube.axes.values():
            if axis.width == 1 and axis.is_ordered and len(axis.choices) not in (1, 2):
                columns.append(column)
            column += axis.width
        return columns

    @property
    def is_enough(self) -> bool:
        """Whether there are so many."""
        return len(self.params) >= self.needed

    def axis(self, name: str) -> Axis:
        """Return a parameter's axis."""
        return self.cube.axes[name]

    def rows_with(self, name: str) -> list[int]:
        """Return the trials that have a parameter."""
        return [row for row, params in enumerate(self.params) if name in params]

    def places(self, name: str, rows: Sequence[int]) -> Vector:
        """Return where trials lie on a parameter's axis, from 0 to 1."""
        axis = self.axis(name)
        return np.array([axis.encode(self.params[row][name]) for row in rows])


def sample_of(study: Study, trials: Sequence[Trial]) -> Sample:
    """Return the trials of a study but for its baselines, which lie outside the space."""
    config = study.config
    cube = Cube(config.search_space().suggest)
    levels = [*rungs_of(config), config.max_epochs]
    frozen = study.optuna.get_trials(deepcopy=False)
    params, curves, failed, sound, late, drawn = [], [], [], [], [], list[int]()
    # TPE does not tell which of its first proposals are random: all of them are.
    startup = config.sampler.startup_trials if config.sampler.kind == "tpe" else 0
    assert startup != "auto"
    for trial in trials:
        made = frozen[trial.number]
        if not made.params or trial.is_baseline or trial.refusal:
            continue
        curve = curve_of(made.intermediate_values, levels, 1.0)
        if made.user_attrs.get(UNTRAINABLE) or trial.outcome == "failed":
            failed.append(made.params)
        elif curve:
            sound.append(made.params)
            params.append(made.params)
            curves.append(curve)
            late.append(trial.number / len(trials))
            if trial.proposal.get("by") in _DRAWN or trial.number < startup:
                drawn.append(len(params) - 1)
    if not curves:
        return Sample(cube=cube, params=[], values=np.empty(0), weights=np.empty(0), failed=failed)
    scaled = compress_lower_half(to_one_scale(curves))
    spread = float(np.var(scaled.values)) + 1e-12
    order = np.argsort(-scaled.values, kind="stable")
    count = min(max(5, math.ceil(len(params) / 5)), 20)
    return Sample(
        cube=cube,
        params=params,
        values=scaled.values,
        weights=1.0 / (1.0 + scaled.variances / spread),
        late=late,
        drawn=drawn,
        best=[int(row) for row in order[:count]],
        failed=failed,
        sound=sound,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The estimates of some columns beside all the others."""

    estimates: Vector
    covariance: Matrix
    freedom: int

    def above(self, column: int, sign: float = 1.0) -> float:
        """Return how likely chance would give so high an estimate (or so low a one: -1)."""
        error = math.sqrt(max(self.covariance[column, column], 1e-30))
        return float(t_distribution.sf(sign * self.estimates[column] / error, self.freedom))

    def most_apart(self, level: float = 0.05) -> float:
        """Return how far any two of the groups may lie apart at most, and be wrong in 5 %.

        The first group is the one without a column.
        """
        count = len(self.estimates) + 1
        pairs = list(combinations(range(count), 2))
        factor = float(t_distribution.isf(level / len(pairs), self.freedom))
        bounds = []
        for one, other in pairs:
            contrast = np.zeros(count)
            contrast[one], contrast[other] = 1.0, -1.0
            across = contrast[1:]
            error = math.sqrt(max(float(across @ self.covariance @ across), 0.0))
            bounds.append(abs(float(across @ self.estimates)) + factor * error)
        return max(bounds)


def fit_beside(sample: Sample, owners: Sequence[str], rows: Sequence[int], mine: Matrix) -> Fit:
    """Return the estimates of the columns `mine` (n, k), those of all other parameters beside them.

    Args:
        sample: The trials.
        owners: Parameters whose own columns are left out.
        rows: (n,) the trials to use.
        mine: What stands for the parameters in their place.
    """
    return _fit(sample, rows, mine, _others(sample, owners, rows))


def _fit(sample: Sample, rows: Sequence[int], mine: Matrix, others: Matrix) -> Fit:
    design = np.column_stack([mine, others])
    weights = np.sqrt(sample.weights[list(rows)])
    scaled, values = design * weights[:, None], sample.values[list(rows)] * weights
    squares = np.linalg.pinv(scaled.T @ scaled, hermitian=True, rcond=1e-10)
    inverse = np.asarray(squares, dtype=np.float64)
    found = inverse @ (scaled.T @ values)
    freedom = max(1, len(rows) - int(np.linalg.matrix_rank(scaled)))
    noise = float(((values - scaled @ found) ** 2).sum()) / freedom
    count = mine.shape[1]
    return Fit(estimates=found[:count], covariance=noise * inverse[:count, :count], freedom=freedom)


def chance_where_drawn(sample: Sample, rows: Sequence[int], mine: Matrix, sign: float) -> float:
    """Return how likely chance would give so high (or low: -1) an estimate of the first column.

    Among trials whose place was drawn: the sampler's luck has no part in it. 1 where there are too
    few of them to tell. `rows` and `mine` are as for `fit_beside`.
    """
    there = set(sample.drawn)
    kept = [index for index, row in enumerate(rows) if row in there]
    columns = mine[kept]
    if len(kept) < _FEWEST_DRAWN or np.ptp(columns[:, 0]) == 0:
        return 1.0
    chosen = [rows[index] for index in kept]
    return _fit(sample, chosen, columns, np.ones((len(chosen), 1))).above(0, sign)


def anything_matters(sample: Sample) -> float:
    """Return how likely chance alone would tell the trials apart so well (an F test)."""
    rows = range(len(sample.params))
    weights = np.sqrt(sample.weights)
    values = sample.values * weights
    rests, ranks = [], []
    for design in (np.ones((len(rows), 1)), _others(sample, (), rows)):
        scaled = design * weights[:, None]
        found, *_ = np.linalg.lstsq(scaled, values, rcond=None)
        rests.append(float(((values - scaled @ found) ** 2).sum()))
        ranks.append(int(np.linalg.matrix_rank(scaled)))
    more, freedom = ranks[1] - ranks[0], len(rows) - ranks[1]
    if more < 1 or freedom < 1:
        return 1.0
    ratio = ((rests[0] - rests[1]) / more) / (rests[1] / freedom + 1e-30)
    return float(f_distribution.sf(ratio, more, freedom))


def _others(sample: Sample, owners: Sequence[str], rows: Sequence[int]) -> Matrix:
    kept = [
        {name: value for name, value in sample.params[row].items() if name not in owners}
        for row in rows
    ]
    encoded = np.array([sample.cube.encode(params) for params in kept])
    # Most optima lie inside: without squares, whatever late trials share would look good, since
    # they lie near the optimum. What squares do not catch, the time may.
    bent = np.array([(encoded[:, column] - 0.5) ** 2 for column in sample.bent]).T
    late = np.array([sample.late[row] for row in rows])
    return np.column_stack([np.ones(len(rows)), encoded, *([bent] if bent.size else []), late])
