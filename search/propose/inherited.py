"""Trials of an earlier study as evidence for this one's sampler: they are no trials of this study.

They have numbers below zero, so that they stand before its own and are never taken for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.axis import Axis, Placed

UNTRAINABLE = "untrainable"
"""Trial attribute: its loss was not finite, or it needs more memory than there is. Such a trial
counts as the worst there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inherited:
    """One trial of an earlier study."""

    study: str
    """That trained it: the parent, or one before it."""
    trial: int
    """Its number there."""
    configuration: Mapping[str, Any]
    """What was trained, JSON-plain."""
    params: Mapping[str, Any]
    """Where it lies in this study's space."""
    curve: Mapping[int, float]
    """Epoch -> validation accuracy."""
    untrainable: bool

    @property
    def name(self) -> str:
        """Return what people call it: `t0012 of quickstart`."""
        return f"t{self.trial:04d} of {self.study}"

    @property
    def value(self) -> float | None:
        """Return its highest validation accuracy."""
        return max(self.curve.values(), default=None)


def as_trials(
    inherited: Sequence[Inherited], draw: Callable[[Placed], object], *, max_epochs: int
) -> list[FrozenTrial]:
    """Return them as Optuna's, with this study's distributions: numbers -n to -1, in order."""
    return [
        _as_trial(one, draw, number, max_epochs)
        for number, one in enumerate(inherited, start=-len(inherited))
    ]


def distribution(axis: Axis) -> BaseDistribution:
    """Return an axis of a cube in Optuna's words."""
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    if axis.whole:
        step = int(axis.step or 1)
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=step)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _as_trial(
    one: Inherited, draw: Callable[[Placed], object], number: int, max_epochs: int
) -> FrozenTrial:
    asked = Placed(lambda name, axis: axis.encode(one.params[name]))
    draw(asked)  # the axes of the parameters that this very point has
    curve = dict(one.curve)
    state, value = TrialState.PRUNED, None
    if one.untrainable or not curve:
        state = TrialState.FAIL
    elif max(curve) >= max_epochs:
        state, value = TrialState.COMPLETE, max(curve.values())
    trial = create_trial(
        state=state,
        value=value,
        params={name: one.params[name] for name in asked.axes},
        distributions={name: distribution(axis) for name, axis in asked.axes.items()},
        user_attrs={UNTRAINABLE: True} if one.untrainable else {},
        intermediate_values=curve,
    )
    trial.number = number
    trial._trial_id = number - 1  # Optuna's own count from 0; -1 is a trial without a key
    return trial
