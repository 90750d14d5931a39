"""The regret bound: when it is computed, of which trials, and that it comes out the same again."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.prune.terminator import RegretBound, regret_bound

_RATE = FloatDistribution(0.001, 1.0, log=True)
_WIDTH = CategoricalDistribution([8, 16, 32])
_DEPTH = IntDistribution(1, 3)


def _accuracy(rate: float, width: int) -> float:
    return 0.9 - 0.05 * math.log10(rate / 0.1) ** 2 + 0.0005 * width


def _trial(rate: float, width: int = 16, **more: Any) -> FrozenTrial:
    params = {"rate": rate, "width": width}
    distributions: dict[str, BaseDistribution] = {"rate": _RATE, "width": _WIDTH}
    return create_trial(
        params=params,
        distributions=distributions,
        **({"value": _accuracy(rate, width)} | more),
    )


def _drawn(count: int, seed: int = 0) -> list[FrozenTrial]:
    draw = random.Random(seed)
    return [_trial(10 ** draw.uniform(-3, 0), draw.choice([8, 16, 32])) for _ in range(count)]


def _study(trials: list[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def test_there_is_no_bound_before_the_20th_trial() -> None:
    trials = _drawn(20)
    study = _study(trials[:19])
    regret = RegretBound(study, seed=0)
    assert regret.update() is None
    study.add_trial(trials[19])
    bound = regret.update()
    assert bound is not None and 0 < bound < 0.2
    assert regret.bounds == {20: bound}


def test_a_bound_is_computed_anew_at_every_fifth_trial() -> None:
    trials = _drawn(31)
    study = _study(trials[:20])
    regret = RegretBound(study, seed=0)
    given = {20: regret.update()}
    for count, trial in enumerate(trials[20:], start=21):
        study.add_trial(trial)
        if (bound := regret.update()) is not None:
            given[count] = bound
    assert list(given) == [20, 25, 30]
    assert regret.bounds == given


def test_only_trials_that_were_trained_to_their_end_and_have_parameters_count() -> None:
    study = _study(_drawn(19))
    regret = RegretBound(study, seed=0)
    for state in (TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING):
        study.add_trial(_trial(0.1, state=state, value=None))
    # A baseline: outside the space, so without parameters.
    study.add_trial(create_trial(value=0.99))
    assert regret.update() is None
    study.add_trial(_trial(0.1))
    assert regret.update() is not None


def test_a_space_with_nothing_to_search_has_no_bound() -> None:
    study = _study([create_trial(value=0.9) for _ in range(25)])
    assert RegretBound(study, seed=0).update() is None


def test_parameters_that_some_trials_lack_are_left_out() -> None:
    deep = [
        create_trial(
            params=trial.params | {"depth": 2},
            distributions=trial.distributions | {"depth": _DEPTH},
            value=trial.value,
        )
        for trial in _drawn(10, seed=1)
    ]
    flat = [*_drawn(10, seed=1), *_drawn(10)]
    assert regret_bound([*deep, *_drawn(10)], seed=0) == regret_bound(flat, seed=0)
    alone = create_trial(params={"depth": 1}, distributions={"depth": _DEPTH}, value=0.5)
    assert RegretBound(_study([*_drawn(20), alone]), seed=0).update() is None


def test_bounds_are_read_back_from_the_study_and_not_computed_again(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="mine", direction="maximize")
    study.add_trials(_drawn(20))
    bound = RegretBound(study, seed=0).update()
    again = RegretBound(optuna.load_study(storage=storage, study_name="mine"), seed=0)
    assert again.bounds == {20: bound}
    assert again.update() is None


def test_equal_trials_have_equal_bounds_and_the_seed_tells() -> None:
    first, second = (RegretBound(_study(_drawn(20)), seed=3).update() for _ in range(2))
    other = RegretBound(_study(_drawn(20)), seed=4).update()
    assert first == second
    assert first is not None and other is not None
    assert other != first and other == pytest.approx(first, rel=0.5)


def test_the_bound_is_in_the_unit_of_the_values() -> None:
    trials = _drawn(30)
    halved = [_trial(**t.params, value=t.value / 2 + 0.1) for t in trials if t.value is not None]
    assert regret_bound(halved, seed=0) == pytest.approx(regret_bound(trials, seed=0) / 2, rel=0.01)


def test_a_space_that_is_known_well_has_less_to_gain() -> None:
    # The better half decides: with 60 trials it lies close around the best.
    assert regret_bound(_drawn(60), seed=0) < regret_bound(_drawn(20), seed=0) / 2


@pytest.mark.parametrize(
    "trials",
    [
        pytest.param([_trial(0.1)] * 20, id="one configuration only"),
        pytest.param([_trial(0.01 * n, value=0.9) for n in range(1, 26)], id="one value only"),
        pytest.param(
            [
                create_trial(
                    params={"depth": 2, "rate": 0.1},
                    distributions={
                        "depth": IntDistribution(2, 2),
                        "rate": FloatDistribution(0.1, 0.1),
                    },
                    value=n / 100,
                )
                for n in range(25)
            ],
            id="ranges of one value",
        ),
        pytest.param([_trial(0.1, value=n % 2) for n in range(40)], id="noise only"),
    ],
)
def test_odd_trials_have_a_finite_bound(trials: list[FrozenTrial]) -> None:
    bound = regret_bound(trials, seed=0)
    assert math.isfinite(bound) and bound >= 0
