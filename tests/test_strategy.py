"""Sampler and ASHA together, on a study in memory."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.config.config import StudyConfig
from search.config.dimension import Suggester
from search.config.feasible import Given, Realised
from search.drive.restore import Ending
from search.drive.strategy import Strategy
from search.propose.evidence import Tuning
from search.propose.fidelity_sampler import UNTRAINABLE

MakeConfig = Callable[..., StudyConfig]
STOPPING = {"form": "stopping", "min_competitors": 1}
PROMOTION = {"form": "promotion", "min_competitors": 1}


def _draw(suggester: Suggester) -> dict[str, Any]:
    return {
        "width": suggester.suggest_int("width", 8, 64, step=8),
        "rate": suggester.suggest_float("rate", 1e-3, 1.0, log=True),
    }


def _realise(values: Mapping[str, Any]) -> Realised:
    return Realised(configuration=dict(values), key=repr(sorted(values.items())), refusal="")


def _strategy(config: StudyConfig, **more: Any) -> tuple[Strategy, optuna.Study]:
    study = optuna.create_study(direction="maximize")
    return Strategy(study, config, draw=_draw, realise=_realise, **more), study


def _value(values: Mapping[str, Any], epoch: int) -> float:
    """Return a made-up accuracy: the best rate is 0.05, the best width 48."""
    quality = 0.9 - 0.1 * abs(math.log10(values["rate"]) + 1.3) - 0.002 * abs(values["width"] - 48)
    return quality * (1 - 0.6**epoch)


def _search(strategy: Strategy, study: optuna.Study, *, epochs: int, slots: int = 2) -> int:
    """Search as the driver does, every epoch as long as another; return the epochs trained."""
    queue: list[tuple[int, int]] = []  # (when the epoch is over, trial)
    done: dict[int, int] = {}
    spent = 0
    while spent < epochs:
        while len(queue) < slots:
            promotion = strategy.next_promotion()
            if promotion is not None:
                strategy.promote(promotion.trial)
            number = strategy.propose().number if promotion is None else promotion.trial
            heapq.heappush(queue, (spent + slots, number))
        _, number = heapq.heappop(queue)
        spent += 1
        epoch = done[number] = done.get(number, 0) + 1
        value = _value(study.trials[number].params, epoch)
        decision = strategy.judge(number, epoch, value)
        action = "continue" if decision is None else decision.action
        if epoch == 9 or action == "stop":
            state = TrialState.COMPLETE if epoch == 9 else TrialState.PRUNED
            strategy.end(number, state, value if epoch == 9 else None, {})
        elif action != "pause":
            heapq.heappush(queue, (spent + slots, number))
    return spent


@pytest.mark.parametrize("asha", [STOPPING, PROMOTION, PROMOTION | {"grow": True}])
def test_it_finds_what_is_good_with_few_epochs(
    make_config: MakeConfig, asha: dict[str, Any]
) -> None:
    strategy, study = _strategy(make_config(asha=asha, budget={"epochs": 90}))
    _search(strategy, study, epochs=90)
    best = max(study.trials, key=lambda trial: max(trial.intermediate_values.values(), default=0))
    # Ten full trainings; many more are begun, and the best is nearly the best there is.
    assert len(study.trials) > 20
    assert _value(best.params, 9) > _value({"rate": 0.05, "width": 48}, 9) - 0.02
    trained = [len(trial.intermediate_values) for trial in study.trials]
    assert trained.count(1) > len(trained) / 3
    assert (max(trained) == 9) or asha.get("grow")


def test_the_same_study_is_searched_twice_in_the_same_way(make_config: MakeConfig) -> None:
    def told(seed: int) -> list[Any]:
        strategy, study = _strategy(make_config(asha=PROMOTION, seed=seed))
        _search(strategy, study, epochs=40)
        return [(t.params, t.state, t.intermediate_values) for t in study.trials]

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_trial_is_judged_by_its_best_epoch_by_then(make_config: MakeConfig) -> None:
    strategy, _ = _strategy(make_config(asha=STOPPING))
    for trial in (0, 1):
        strategy.propose()
        strategy.judge(trial, 1, 0.5)
    strategy.judge(0, 2, 0.9)
    first = strategy.judge(0, 3, 0.6)
    assert first is not None and (first.rung, first.value) == (3, 0.9)


def test_an_epoch_that_is_trained_again_does_not_know_later_ones(make_config: MakeConfig) -> None:
    strategy, _ = _strategy(make_config(asha=STOPPING))
    strategy.propose()
    for epoch, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
        strategy.judge(0, epoch, value)
    again = strategy.judge(0, 1, 0.52)
    assert again is not None and (again.rung, again.value) == (1, 0.52)
    strategy.judge(0, 2, 0.6)
    at_three = strategy.judge(0, 3, 0.55)
    assert at_three is not None and at_three.value == 0.6


def test_what_ends_is_told_to_the_study(make_config: MakeConfig) -> None:
    given = [Given(origin="point 1", values={"width": 8})]
    strategy, study = _strategy(make_config(), given=given)
    for _ in range(2):
        strategy.propose()
    strategy.judge(0, 1, 0.4)
    strategy.end(
        0, TrialState.FAIL, None, Ending(outcome="infeasible", reason="diverged: ...").facts("")
    )
    strategy.judge(1, 1, 0.5)
    strategy.end(1, TrialState.PRUNED, None, {"reason": "rank 2 of 2"})
    first, second = study.trials
    assert (first.state, first.params["width"]) == (TrialState.FAIL, 8)
    assert first.user_attrs[UNTRAINABLE] is True and first.user_attrs["infeasible"] is True
    assert first.user_attrs["reason"] == "diverged: ..."
    assert (second.state, second.user_attrs["reason"]) == (TrialState.PRUNED, "rank 2 of 2")
    assert UNTRAINABLE not in second.user_attrs


def test_trials_that_wait_are_known_with_their_rung_and_their_standing(
    make_config: MakeConfig,
) -> None:
    strategy, _ = _strategy(make_config(asha=PROMOTION))
    for trial, value in ((0, 0.5), (1, 0.6), (2, 0.4)):
        strategy.propose()
        strategy.judge(trial, 1, value)
    # Rungs 1 and 3, eta 3: the best of three may go on.
    assert strategy.paused == {0: 1, 1: 1, 2: 1}
    promotion = strategy.next_promotion()
    assert promotion is not None and promotion.trial == 1
    strategy.promote(1)
    strategy.end(2, TrialState.PRUNED, None, {})
    assert strategy.paused == {0: 1}
    assert strategy.standing(0) == "never promoted: rank 2 of 3 at the rung of 1 epoch"


@pytest.mark.parametrize(("epochs", "level"), [(2, 1), (5, 3), (9, 9)])
def test_the_sampler_compares_at_the_rungs_and_at_the_end(
    make_config: MakeConfig, epochs: int, level: int
) -> None:
    shares = {f.name: 0.0 for f in fields(Tuning) if f.name.endswith("_share")}
    config = make_config(asha=STOPPING, sampler={"startup_trials": 3})
    strategy, study = _strategy(config, tuning=Tuning(**shares, candidates=20))
    for trial in range(4):
        strategy.propose()
        for epoch in range(1, epochs + 1):
            strategy.judge(trial, epoch, _value(study.trials[trial].params, epoch))
        strategy.end(trial, TrialState.PRUNED, None, {})
    strategy.propose()
    basis = study.trials[-1].user_attrs["proposal"]
    assert (basis["by"], basis["observations"], basis["level"]) == ("model", 4, level)


def test_with_asha_switched_off_only_whole_trainings_are_compared(make_config: MakeConfig) -> None:
    config = make_config(asha={"enabled": False}, sampler={"startup_trials": 3})
    strategy, study = _strategy(config)
    spent = _search(strategy, study, epochs=45)
    assert spent == 45
    assert {len(trial.intermediate_values) for trial in study.trials[:4]} == {9}
    assert strategy.paused == {} and strategy.next_promotion() is None
