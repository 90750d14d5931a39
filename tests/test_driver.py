"""The driver, by hand: no Ray, no training; epochs are made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from data.images import ImageShape
from model.geometry import network_cost
from model.train import EpochMetrics
from search import record as record_module
from search.assignment import Assignment
from search.baselines import BASELINES
from search.driver import Driver
from search.ladder import Decision
from search.seeds import derive_seed
from search.study import Study, open_study

MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
MakeDriver = Callable[..., Driver]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make_study(make_study: MakeStudy) -> MakeStudy:
    """Return a function that makes a small study, in the stopping form unless it is told."""

    def make(folder: str = "small", **changes: Any) -> Study:
        return make_study(
            folder, **(changes | {"asha": {"form": "stopping"} | changes.get("asha", {})})
        )

    return make


@pytest.fixture
def make_driver(shape: ImageShape) -> MakeDriver:
    """Return a function that makes a driver of one slot for a study."""
    return lambda study, slots=1, **more: Driver(study, shape=shape, slots=slots, **more)


def _next(driver: Driver) -> Assignment:
    assignment = driver.next()
    assert assignment is not None
    return assignment


def _frozen(study: Study, trial: int) -> FrozenTrial:
    return study.optuna.get_trials()[trial]


def test_baselines_come_first_then_the_points_then_the_sampler(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    study = make_study(baselines=["seed-64", "seed-32"], points=[{"num_blocks": 1, "filters_1": 4}])
    driver = make_driver(study, slots=6)
    first, second, point, *others = [_next(driver) for _ in range(6)]
    assert [a.trial for a in (first, second, point, *others)] == list(range(6))
    assert first.configuration == BASELINES["seed-64"].configuration(9)
    assert second.configuration == BASELINES["seed-32"].configuration(9)
    # What the point leaves out is proposed.
    assert point.configuration.network.filters == (4,)
    assert 0.001 <= point.configuration.training.learning_rate <= 0.5
    assert len({a.configuration.key() for a in others}) == 3
    assert [trial.origin for trial in study.trials()] == [
        *("baseline seed-64", "baseline seed-32", "point 1"),
        *("sampler", "sampler", "sampler"),
    ]


def test_what_is_handed_out_is_in_the_record(
    make_study: MakeStudy, make_driver: MakeDriver, shape: ImageShape
) -> None:
    study = make_study()
    assignment = _next(make_driver(study))
    trial = study.trial(0)
    assert assignment.attempt == 1
    assert assignment.checkpoint == study.folder / "trials" / "t0000" / "last.safetensors"
    assert assignment.checkpoint.parent.is_dir()
    assert assignment.seed == derive_seed(study.config.seed, "trial", 0)
    assert trial.outcome == "running"
    assert trial.configuration == assignment.configuration.to_dict()
    cost = network_cost(assignment.configuration.network, shape)
    assert (trial.parameters, trial.multiply_adds) == (cost.parameters, cost.multiply_adds)
    (attempt,) = study.record.attempts()
    assert (attempt["trial"], attempt["attempt"], attempt["outcome"]) == (0, 1, None)


def test_seeds_differ_by_trial_and_by_study() -> None:
    seeds = {derive_seed(study, "trial", trial) for study in range(20) for trial in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "trial", 1) == derive_seed(0, "trial", 1)


def test_there_are_never_more_open_trials_than_slots(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    driver = make_driver(make_study(max_epochs=2), slots=2)
    first, second = _next(driver), _next(driver)
    assert driver.next() is None
    assert not driver.done
    driver.on_epoch(first.trial, make_epoch(1, 0.5))
    assert driver.next() is None
    driver.on_epoch(first.trial, make_epoch(2, 0.5))
    third = _next(driver)
    assert {second.trial, third.trial} == {1, 2}
    assert driver.next() is None


def test_a_placed_attempt_says_where_it_runs(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    study = make_study()
    driver = make_driver(study)
    driver.place(_next(driver).trial, node="host", pid=12)
    (attempt,) = study.record.attempts()
    assert (attempt["node"], attempt["pid"]) == ("host", 12)


def test_a_trial_that_trains_to_the_end_is_complete_with_its_best_value(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=3)
    driver = make_driver(study)
    _next(driver)
    values = (0.5, 0.9, 0.7)
    verdicts = [driver.on_epoch(0, make_epoch(e, v)) for e, v in enumerate(values, start=1)]
    assert [verdict.action for verdict in verdicts] == ["continue", "continue", "stop"]
    frozen = _frozen(study, 0)
    assert (frozen.state, frozen.value) == (TrialState.COMPLETE, 0.9)
    assert frozen.intermediate_values == {1: 0.5, 2: 0.9, 3: 0.7}
    trial = study.trial(0)
    assert (trial.outcome, trial.reason) == ("complete", "trained for all 3 epochs")
    assert trial.value == 0.9
    (attempt,) = study.record.attempts()
    assert (attempt["outcome"], attempt["reason"]) == ("complete", "trained for all 3 epochs")
    assert attempt["ended_at"] is not None


def test_a_trial_stopped_by_asha_is_pruned_with_its_reason_and_values(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(asha={"min_competitors": 2})
    driver = make_driver(study, slots=4)
    for value in (0.7, 0.6, 0.8):
        verdict = driver.on_epoch(_next(driver).trial, make_epoch(1, value))
    assert verdict.action == "continue"
    # The second was the second of two when it came, and is the last of three now.
    verdict = driver.on_epoch(1, make_epoch(2, 0.95))
    assert verdict.action == "stop"
    frozen = _frozen(study, 1)
    assert frozen.state == TrialState.PRUNED
    assert frozen.intermediate_values == {1: 0.6, 2: 0.95}
    trial = study.trial(1)
    assert trial.outcome == "pruned"
    assert trial.reason == "rank 3 of 3 at the rung of 1 epoch; only the best goes on"
    decisions = [(d["trial"], d["epoch"], d["action"]) for d in study.record.decisions()]
    assert decisions == [
        *((0, 1, "continue"), (1, 1, "continue"), (2, 1, "continue")),
        (1, 2, "stop"),
    ]


def test_asha_can_be_switched_off(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(asha={"enabled": False}, max_epochs=2)
    driver = make_driver(study)
    for value in (0.9, 0.8, 0.7, 0.6, 0.5):
        trial = _next(driver).trial
        assert driver.on_epoch(trial, make_epoch(1, value)).action == "continue"
        driver.on_epoch(trial, make_epoch(2, value))
    assert study.record.decisions() == []


@pytest.mark.parametrize(
    "diverged",
    [
        {"train_loss": math.nan},
        {"val_loss": math.inf},
        {"val_loss": None, "val_accuracy": None},
        {"val_accuracy": math.nan},
    ],
)
def test_a_diverged_trial_is_infeasible_and_told_to_nobody_as_a_value(
    make_study: MakeStudy,
    make_driver: MakeDriver,
    make_epoch: MakeEpoch,
    diverged: dict[str, Any],
) -> None:
    study = make_study()
    driver = make_driver(study)
    _next(driver)
    driver.on_epoch(0, make_epoch(1, 0.7))
    assert (
        driver.on_epoch(
            0,
            make_epoch(2, 0.1, **diverged)
            if "val_accuracy" not in diverged
            else make_epoch(2, **diverged),
        ).action
        == "stop"
    )
    frozen = _frozen(study, 0)
    assert (frozen.state, frozen.values) == (TrialState.FAIL, None)
    assert frozen.intermediate_values == {1: 0.7}
    assert frozen.user_attrs["infeasible"] is True
    trial = study.trial(0)
    assert (trial.outcome, len(trial.epochs)) == ("infeasible", 2)
    assert trial.reason == "diverged: the loss is not finite at epoch 2"


def test_an_error_fails_the_trial_with_the_last_line_and_the_study_goes_on(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    study = make_study()
    driver = make_driver(study)
    _next(driver)
    trace = "Traceback (most recent call last):\n  File ...\nValueError: images are too small\n"
    driver.on_failure(0, trace)
    assert _frozen(study, 0).state == TrialState.FAIL
    trial = study.trial(0)
    assert (trial.outcome, trial.reason) == ("failed", "ValueError: images are too small")
    # All of it stays with the attempt.
    assert study.record.attempts()[0]["reason"] == trace
    assert _next(driver).trial == 1


def test_observers_hear_of_every_event_in_order(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    heard: list[tuple[Any, ...]] = []

    class Ear:
        def started(self, assignment: Assignment, origin: str) -> None:
            heard.append(("started", assignment.trial, assignment.attempt, origin))

        def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
            heard.append(("epoch", trial, metrics.epoch, decision and decision.action))

        def ended(self, trial: int, outcome: str, reason: str) -> None:
            heard.append(("ended", trial, outcome))

    # The baselines are over the limit: what never started does not end either.
    study = make_study(baselines=["seed-64"], max_epochs=2, limits={"parameters": 20_000})
    driver = make_driver(study, observers=[Ear()])
    _next(driver)
    driver.on_epoch(1, make_epoch(1, 0.5))
    driver.on_lost(1, "the worker process died")
    _next(driver)
    driver.on_epoch(1, make_epoch(2, 0.6))
    assert heard == [
        ("started", 1, 1, "sampler"),
        ("epoch", 1, 1, "continue"),
        ("started", 1, 2, "sampler"),
        ("epoch", 1, 2, None),
        ("ended", 1, "complete"),
    ]


def test_networks_over_the_limits_are_not_proposed_and_a_baseline_over_them_is_infeasible(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(
        baselines=["seed-64"], max_epochs=1, budget={"trials": 5}, limits={"parameters": 4_000}
    )
    driver = make_driver(study)
    while (assignment := driver.next()) is not None:
        driver.on_epoch(assignment.trial, make_epoch(1, 0.5))
    baseline, *proposed = study.trials()
    assert baseline.origin == "baseline seed-64"
    assert baseline.outcome == "infeasible"
    assert baseline.reason == f"{baseline.parameters} parameters, but at most 4000 are allowed"
    assert baseline.number not in {row["trial"] for row in study.record.attempts()}
    assert [trial.outcome for trial in proposed] == ["complete"] * 5
    assert all(trial.parameters is not None and trial.parameters <= 4_000 for trial in proposed)
    # What the sampler learns from is what was trained, not the draws before it.
    recorded = [trial.params for trial in study.optuna.get_trials()[1:]]
    for trial, params in zip(proposed, recorded, strict=True):
        assert trial.configuration == study.config.search_space().configuration(params).to_dict()


def test_combinations_that_make_no_network_are_refused_with_the_reason(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    space = {
        "filters": 4,
        "learning_rate": 0.1,
        "convs_per_block": {"choice": [1, 2]},
        "residual": {"choice": [False, True]},
    }
    points = [{"residual": True, "convs_per_block": 1}, {"residual": True, "convs_per_block": 2}]
    study = make_study(space=space, points=points)
    assert _next(make_driver(study)).trial == 1
    trial = study.trial(0)
    assert (trial.outcome, trial.configuration) == ("infeasible", None)
    assert "set convs_per_block to 2" in trial.reason


def test_networks_that_do_not_fit_the_images_are_refused(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    space = {"num_blocks": {"int": [1, 5]}, "filters": 4, "learning_rate": 0.1}
    study = make_study(space=space, points=[{"num_blocks": 5}, {"num_blocks": 4}])
    assert _next(make_driver(study)).trial == 1
    assert study.trial(0).reason.startswith("block 5: a 1x1 map is too small for 2x2 pooling")


def test_a_study_all_of_whose_networks_are_refused_says_so(
    make_study: MakeStudy, make_driver: MakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.driver._MOST_REFUSALS", 5)
    driver = make_driver(make_study(limits={"parameters": 10}))
    with pytest.raises(ValueError, match=r"5 proposals in a row .* at most 10 are allowed. Widen"):
        driver.next()


def test_the_budget_of_trials_ends_the_search_when_the_last_one_ends(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    driver = make_driver(make_study(max_epochs=1, budget={"trials": 2}), slots=3)
    _next(driver), _next(driver)
    assert driver.next() is None
    assert driver.done and driver.interrupted
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_epoch(1, make_epoch(1, 0.5))
    assert driver.done and not driver.interrupted


def test_the_budget_of_epochs_stops_trials_in_flight(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(budget={"epochs": 5}, asha={"enabled": False})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    for epoch in (1, 2):
        assert driver.on_epoch(0, make_epoch(epoch, 0.5)).action == "continue"
        assert driver.on_epoch(1, make_epoch(epoch, 0.5)).action == "continue"
    assert not driver.done
    assert driver.on_epoch(0, make_epoch(3, 0.5)).action == "stop"
    assert driver.done
    # An epoch that was under way is recorded.
    assert driver.on_epoch(1, make_epoch(3, 0.5)).action == "stop"
    assert not driver.interrupted
    assert [(t.outcome, t.reason, len(t.epochs)) for t in study.trials()] == [
        ("pruned", "the budget ended: 5 epochs", 3),
        ("pruned", "the budget ended: 5 epochs", 3),
    ]


def test_the_budget_of_seconds_stops_trials_in_flight(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study, clock = make_study(budget={"seconds": 60}), Clock()
    driver = make_driver(study, clock=clock)
    _next(driver)
    clock.now += 59
    assert driver.on_epoch(0, make_epoch(1, 0.5)).action == "continue"
    assert not driver.done
    clock.now += 1
    assert driver.seconds == 60
    assert driver.on_epoch(0, make_epoch(2, 0.5)).action == "stop"
    assert driver.done and not driver.interrupted
    assert driver.next() is None
    assert study.trial(0).reason == "the budget ended: 60 seconds"


def test_seconds_of_earlier_sessions_count(
    make_study: MakeStudy,
    make_driver: MakeDriver,
    make_epoch: MakeEpoch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, clock = make_study(budget={"seconds": 60}), Clock()
    monkeypatch.setattr(record_module.time, "time", clock)
    study.record.start_session("search", host="host", pid=1)
    driver = make_driver(study, clock=clock)
    _next(driver)
    clock.now += 45
    driver.on_epoch(0, make_epoch(1, 0.5))
    clock.now += 5000  # killed some time after that epoch, and begun again
    study = open_study(study.folder)
    study.record.start_session("search", host="host", pid=2)
    driver = make_driver(study, clock=clock)
    assert driver.seconds == 45
    clock.now += 14
    assert not driver.done
    clock.now += 1
    assert driver.done


def test_a_lost_trial_is_pruned_when_the_budget_ends_before_it_goes_on(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(budget={"epochs": 2})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_lost(1, "the worker process died")
    driver.on_epoch(0, make_epoch(2, 0.5))
    assert driver.next() is None
    # No trial is left running in a study that is over.
    assert [(t.outcome, t.reason) for t in study.trials()] == [
        ("pruned", "the budget ended: 2 epochs")
    ] * 2
    assert driver.done and not driver.interrupted


def test_a_stopped_search_leaves_its_trials_to_go_on_later(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study()
    driver = make_driver(study, slots=2)
    first, _ = _next(driver), _next(driver)
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.stop("SIGINT received")
    assert driver.next() is None
    verdict = driver.on_epoch(0, make_epoch(2, 0.6))
    assert (verdict.action, verdict.reason) == ("stop", "SIGINT received")
    assert driver.done and driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["running", "running"]
    attempt = study.record.attempts()[0]
    assert (attempt["outcome"], attempt["reason"]) == ("stopped", "SIGINT received")

    study = open_study(study.folder)
    driver = make_driver(study, slots=2)
    again = _next(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 2, 2)
    assert (again.configuration, again.seed) == (first.configuration, first.seed)
    assert _next(driver).trial == 1


def test_a_trial_whose_worker_died_goes_on_as_a_further_attempt(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=3, budget={"trials": 1})
    driver = make_driver(study)
    first = _next(driver)
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_epoch(0, make_epoch(2, 0.6))
    driver.on_lost(0, "the worker process died")
    assert not driver.done, "the budget of trials is not spent while one is lost"
    second = _next(driver)
    assert (second.trial, second.attempt, second.from_epoch) == (0, 2, 2)
    assert second.configuration == first.configuration
    assert (second.seed, second.checkpoint) == (first.seed, first.checkpoint)
    driver.on_epoch(0, make_epoch(3, 0.7))
    assert driver.done and not driver.interrupted
    (trial,) = study.trials()
    assert (trial.outcome, trial.value) == ("complete", 0.7)
    assert [(row.epoch, row.attempt) for row in trial.epochs] == [(1, 1), (2, 1), (3, 2)]
    outcomes = [(row["outcome"], row["reason"]) for row in study.record.attempts()]
    assert outcomes == [
        ("lost", "the worker process died"),
        ("complete", "trained for all 3 epochs"),
    ]


def test_epochs_trained_again_from_an_older_checkpoint_count_once(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(budget={"epochs": 4}, asha={"min_competitors": 1})
    driver = make_driver(study)
    _next(driver)
    for epoch, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
        driver.on_epoch(0, make_epoch(epoch, value))
    driver.on_lost(0, "the worker process died")
    _next(driver)  # its checkpoint is gone: from the beginning
    for epoch, value in ((1, 0.51), (2, 0.89), (3, 0.72)):
        assert driver.on_epoch(0, make_epoch(epoch, value)).action == "continue"
    assert driver.on_epoch(0, make_epoch(4, 0.71)).action == "stop"
    assert _frozen(study, 0).intermediate_values == {1: 0.51, 2: 0.89, 3: 0.72, 4: 0.71}
    assert [row.val_accuracy for row in study.record.epochs()] == [0.51, 0.89, 0.72, 0.71]
    # The best by the rung of 1 epoch is not that of a later epoch of the first attempt.
    values = [d["value"] for d in study.record.decisions() if d["rung"] == 1]
    assert values == [0.5, 0.51]


def test_a_trial_that_loses_four_workers_has_failed(
    make_study: MakeStudy, make_driver: MakeDriver
) -> None:
    study = make_study()
    driver = make_driver(study)
    for attempt in (1, 2, 3, 4):
        assignment = _next(driver)
        assert (assignment.trial, assignment.attempt) == (0, attempt)
        driver.on_lost(0, "the worker process died")
    trial = study.trial(0)
    assert trial.outcome == "failed"
    assert trial.reason == "its worker died 4 times: the worker process died"
    assert [row["outcome"] for row in study.record.attempts()] == ["lost"] * 4
    assert _next(driver).trial == 1


def test_interruptions_are_not_counted_as_lost_workers(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study()
    for epoch in (1, 2, 3, 4):
        driver = make_driver(study)
        assert _next(driver).attempt == epoch
        driver.stop("SIGINT received")
        driver.on_epoch(0, make_epoch(epoch, 0.5))
    driver = make_driver(study)
    assert _next(driver).attempt == 5
    driver.on_lost(0, "the worker process died")
    assert _next(driver).attempt == 6


def test_a_worker_that_dies_after_its_trial_ended_changes_nothing(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=1)
    driver = make_driver(study)
    _next(driver)
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_lost(0, "the worker process died")
    assert study.trial(0).outcome == "complete"
    assert _next(driver).trial == 1


HALVING = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1}


def _until_it_waits(
    driver: Driver, make_epoch: MakeEpoch, trial: int, values: dict[int, float]
) -> list[str]:
    """Train a trial; return what was done with it after each epoch."""
    return [driver.on_epoch(trial, make_epoch(e, v)).action for e, v in values.items()]


def test_promotion_by_hand(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha=HALVING, budget={"trials": 4})  # rungs 1 and 2
    driver = make_driver(study)
    first = _next(driver)
    verdict = driver.on_epoch(0, make_epoch(1, 0.5))
    # It waits: the slot is free, the trial has not ended.
    assert verdict.action == "stop" and verdict.reason.endswith("; waits for promotion")
    assert study.trial(0).outcome == "running"
    assert study.record.attempts()[0]["outcome"] == "paused"
    assert not driver.done
    assert _next(driver).trial == 1
    assert _until_it_waits(driver, make_epoch, 1, {1: 0.7, 2: 0.72}) == ["continue", "stop"]
    third = _next(driver)
    assert _until_it_waits(driver, make_epoch, 2, {1: 0.6}) == ["stop"]
    assert _next(driver).trial == 3
    assert _until_it_waits(driver, make_epoch, 3, {1: 0.1}) == ["stop"]
    # Now the best 2 of 4 may go on from the rung of 1 epoch: the second one, from its checkpoint.
    again = _next(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (2, 2, 1)
    assert (again.configuration, again.seed) == (third.configuration, third.seed)
    assert again.checkpoint == third.checkpoint != first.checkpoint
    assert driver.next() is None and not driver.done
    values = {2: 0.8, 3: 0.85, 4: 0.83}
    assert _until_it_waits(driver, make_epoch, 2, values) == ["continue", "continue", "stop"]
    assert driver.next() is None
    assert driver.done and not driver.interrupted
    assert [(t.outcome, t.value, t.reason) for t in study.trials()] == [
        ("pruned", 0.5, "never promoted: rank 3 of 4 at the rung of 1 epoch"),
        ("pruned", 0.72, "never promoted: rank 2 of 2 at the rung of 2 epochs"),
        ("complete", 0.85, "trained for all 4 epochs"),
        ("pruned", 0.1, "never promoted: rank 4 of 4 at the rung of 1 epoch"),
    ]
    assert [frozen.state.name for frozen in study.optuna.get_trials()] == [
        *("PRUNED", "PRUNED", "COMPLETE", "PRUNED"),
    ]
    decisions = [(d["trial"], d["action"], d["rung"]) for d in study.record.decisions()]
    assert decisions == [
        *((0, "pause", 1), (1, "continue", 1), (1, "pause", 2), (2, "pause", 1)),
        *((3, "pause", 1), (2, "promote", 1), (2, "continue", 2)),
    ]
    events = [(e.kind, e.trial) for e in study.record.events() if e.kind != "epoch"]
    assert events == [
        *(("proposed", trial) for trial in range(4)),
        *(("promoted", 2), ("ended", 2), ("ended", 0), ("ended", 1), ("ended", 3)),
    ]
    assert all(row["ended_at"] is not None for row in study.record.attempts())


def test_a_promotion_comes_before_a_new_trial(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    driver = make_driver(make_study(max_epochs=4, asha=HALVING), slots=3)
    for _ in range(3):
        _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    _until_it_waits(driver, make_epoch, 1, {1: 0.3})
    assert (_next(driver).trial, _next(driver).trial) == (0, 3)
    assert driver.next() is None, "three are open"


def test_with_trials_open_the_waiting_ones_wait_on(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha=HALVING, budget={"trials": 2})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    assert driver.next() is None and not driver.done
    assert study.trial(0).outcome == "running"
    # The other one comes to the rung, and lets it go on.
    _until_it_waits(driver, make_epoch, 1, {1: 0.3})
    assert _next(driver).trial == 0


def test_waiting_trials_end_with_a_budget_that_is_spent(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha=HALVING, budget={"epochs": 3})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    _until_it_waits(driver, make_epoch, 1, {1: 0.3})
    # Trial 0 may go on, but the third epoch is the last one.
    assert (_next(driver).trial, _next(driver).trial) == (0, 2)
    assert _until_it_waits(driver, make_epoch, 0, {2: 0.71}) == ["stop"]
    assert driver.done and driver.interrupted, "trial 2 is still open"
    assert _until_it_waits(driver, make_epoch, 2, {1: 0.9}) == ["stop"]
    assert driver.next() is None
    assert not driver.interrupted
    assert [(t.outcome, t.reason) for t in study.trials()] == [
        ("pruned", "never promoted: rank 1 of 1 at the rung of 2 epochs"),
        ("pruned", "never promoted: rank 3 of 3 at the rung of 1 epoch"),
        ("pruned", "the budget ended: 3 epochs"),
    ]


def test_waiting_trials_are_there_after_an_interruption(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha=HALVING, budget={"trials": 3})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    driver.stop("SIGINT received")
    assert _until_it_waits(driver, make_epoch, 1, {1: 0.3}) == ["stop"]
    assert driver.next() is None and driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["running", "running"]
    study = open_study(study.folder)
    driver = make_driver(study, slots=2)
    # Neither is in flight: one is promoted, the other waits.
    again = _next(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 2, 1)
    assert _next(driver).trial == 2
    assert driver.next() is None


def test_a_promoted_trial_whose_worker_died_goes_on_without_another_promotion(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha=HALVING, budget={"trials": 3})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    _until_it_waits(driver, make_epoch, 1, {1: 0.3})
    assert _next(driver).trial == 0
    driver.on_lost(0, "the worker process died")
    again = _next(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 3, 1)
    # Its checkpoint was lost too: it passes the rung again as one that was promoted.
    assert _until_it_waits(driver, make_epoch, 0, {1: 0.69, 2: 0.75}) == ["continue", "stop"]
    promotions = [e.trial for e in study.record.events() if e.kind == "promoted"]
    assert promotions == [0]
    assert study.record.decisions()[-2]["reason"] == "promoted before"


def test_observers_hear_of_a_wait_as_a_start_and_no_end(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    heard: list[tuple[Any, ...]] = []

    class Ear:
        def started(self, assignment: Assignment, origin: str) -> None:
            heard.append(("started", assignment.trial, assignment.attempt))

        def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
            heard.append(("epoch", trial, metrics.epoch, decision and decision.action))

        def ended(self, trial: int, outcome: str, reason: str) -> None:
            heard.append(("ended", trial, outcome))

    study = make_study(max_epochs=2, asha=HALVING, budget={"trials": 2})
    driver = make_driver(study, observers=[Ear()])
    _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    _next(driver)
    _until_it_waits(driver, make_epoch, 1, {1: 0.3})
    _next(driver)
    _until_it_waits(driver, make_epoch, 0, {2: 0.71})
    assert driver.next() is None
    assert heard == [
        *(("started", 0, 1), ("epoch", 0, 1, "pause")),
        *(("started", 1, 1), ("epoch", 1, 1, "pause")),
        *(("started", 0, 2), ("epoch", 0, 2, None), ("ended", 0, "complete")),
        ("ended", 1, "pruned"),
    ]


def test_an_audited_trial_runs_on_to_its_end(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=4, asha={"min_competitors": 1, "audit_share": 1.0})
    driver = make_driver(study, slots=2)
    _next(driver), _next(driver)
    _until_it_waits(driver, make_epoch, 0, {1: 0.7})
    values = {1: 0.3, 2: 0.9, 3: 0.91, 4: 0.92}
    assert _until_it_waits(driver, make_epoch, 1, values) == ["continue"] * 3 + ["stop"]
    assert study.trial(1).outcome == "complete"
    decisions = [(d["trial"], d["epoch"], d["action"]) for d in study.record.decisions()]
    # It is not judged again, nor is it at the rung of 3 epochs for trial 0 to be judged by.
    assert decisions == [(0, 1, "continue"), (1, 1, "audit")]
    _until_it_waits(driver, make_epoch, 0, {2: 0.71, 3: 0.72})
    assert study.record.decisions()[-1]["competitors"] == 0


def test_the_budget_of_device_hours_counts_what_slots_hold(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study, clock = make_study(budget={"device_hours": 0.1}), Clock()  # 360 s of one core
    driver = make_driver(study, slots=3, share=2.0, clock=clock)
    _next(driver), _next(driver)
    clock.now += 60  # two slots of two cores: 240 s
    assert driver.on_epoch(0, make_epoch(1, 0.5)).action == "continue"
    driver.on_failure(1, "ValueError: no")
    clock.now += 30  # one slot: 60 s; the idle ones cost nothing
    _next(driver)
    clock.now += 14  # two slots again: 56 s
    assert driver.on_epoch(0, make_epoch(2, 0.5)).action == "continue"
    assert not driver.done
    clock.now += 1
    assert driver.on_epoch(0, make_epoch(3, 0.5)).action == "stop"
    assert driver.on_epoch(2, make_epoch(1, 0.5)).action == "stop"
    assert driver.next() is None
    assert driver.done and not driver.interrupted
    assert study.trial(0).reason == "the budget ended: 0.1 device-hours"


def test_a_plateau_lets_trials_in_flight_go_on(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(
        max_epochs=2, asha={"enabled": False}, budget={"trials": 30, "plateau_trials": 2}
    )
    driver = make_driver(study, slots=2)
    _next(driver)
    for trial, value in ((1, 0.8), (2, 0.7), (3, 0.79)):
        assert _next(driver).trial == trial
        assert not driver.done
        _until_it_waits(driver, make_epoch, trial, {1: value, 2: value})
    assert driver.next() is None
    assert driver.done and driver.interrupted
    # The one in flight may be the best yet.
    assert _until_it_waits(driver, make_epoch, 0, {1: 0.9, 2: 0.95}) == ["continue", "stop"]
    assert driver.next() is None, "what was ended stays ended"
    assert driver.done and not driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["complete"] * 4


def test_what_a_worker_had_to_do_otherwise_is_said_with_the_end(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    study = make_study(max_epochs=2, asha={"enabled": False})
    driver = make_driver(study)
    _next(driver)
    driver.remark(0, "the checkpoint was damaged")
    for epoch in (1, 2):
        driver.on_epoch(0, make_epoch(epoch, 0.5))
    assert study.trial(0).reason == "trained for all 2 epochs (the checkpoint was damaged)"
    assert _frozen(study, 0).user_attrs["remark"] == "the checkpoint was damaged"


def test_workers_that_all_die_before_an_epoch_end_the_search_with_advice(
    make_study: MakeStudy, make_driver: MakeDriver, make_epoch: MakeEpoch
) -> None:
    driver = make_driver(make_study())
    for _ in range(12):
        driver.on_lost(_next(driver).trial, "the worker died")
    with pytest.raises(ValueError, match="12 workers in a row died before they finished an epoch"):
        driver.next()
    # An epoch in between shows that trainings are possible.
    driver = make_driver(make_study("other"))
    for _ in range(11):
        driver.on_lost(_next(driver).trial, "the worker died")
    trial = _next(driver).trial
    driver.on_epoch(trial, make_epoch(1, 0.5))
    driver.on_lost(trial, "the worker died")
    assert driver.next() is not None
