"""The driver, by hand: no Ray, no training; epochs are made up.

Trials that wait for promotion are in `test_driver_promotion.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from data.images import ImageShape
from model.geometry import network_cost
from model.train import EpochMetrics
from search.config.baselines import BASELINES
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.prune.assignment import Assignment, Observer
from search.record.study import Study, open_study
from search.seeds import derive_seed

MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
MakeDriver = Callable[..., Driver]
HandOut = Callable[[Driver], Assignment]
StartSearch = Callable[..., tuple[Study, Driver]]
Train = Callable[[Driver, int, dict[int, float]], list[str]]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make_study(make_study: MakeStudy) -> MakeStudy:
    """Return a function that makes a small study, in the stopping form unless it is told.

    `start_search` makes its studies with it too.
    """

    def make(folder: str = "small", **changes: Any) -> Study:
        return make_study(
            folder, **(changes | {"asha": {"form": "stopping"} | changes.get("asha", {})})
        )

    return make


def _frozen(study: Study, trial: int) -> FrozenTrial:
    return study.optuna.get_trials()[trial]


def test_baselines_come_first_then_the_points_then_the_sampler(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    study = make_study(baselines=["seed-64", "seed-32"], points=[{"num_blocks": 1, "filters_1": 4}])
    driver = make_driver(study, slots=6)
    first, second, point, *others = [hand_out(driver) for _ in range(6)]
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
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, shape: ImageShape
) -> None:
    study = make_study()
    assignment = hand_out(make_driver(study))
    trial = study.trial(0)
    assert assignment.attempt == 1
    assert assignment.folder == study.folder / "trials" / "t0000"
    assert assignment.folder.is_dir()
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
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    driver = make_driver(make_study(max_epochs=2), slots=2)
    first, second = hand_out(driver), hand_out(driver)
    assert driver.next() is None
    assert not driver.done
    train(driver, first.trial, {1: 0.5})
    assert driver.next() is None
    train(driver, first.trial, {2: 0.5})
    third = hand_out(driver)
    assert {second.trial, third.trial} == {1, 2}
    assert driver.next() is None


def test_a_placed_attempt_says_where_it_runs(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    study = make_study()
    driver = make_driver(study)
    driver.place(hand_out(driver).trial, node="host", pid=12)
    (attempt,) = study.record.attempts()
    assert (attempt["node"], attempt["pid"]) == ("host", 12)


def test_a_trial_that_trains_to_the_end_is_complete_with_its_best_value(
    start_search: StartSearch, train: Train
) -> None:
    study, driver = start_search(max_epochs=3)
    assert train(driver, 0, {1: 0.5, 2: 0.9, 3: 0.7}) == ["continue", "continue", "stop"]
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
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study(asha={"min_competitors": 2})
    driver = make_driver(study, slots=4)
    for value in (0.7, 0.6, 0.8):
        actions = train(driver, hand_out(driver).trial, {1: value})
    assert actions == ["continue"]
    # The second was the second of two when it came, and is the last of three now.
    assert train(driver, 1, {2: 0.95}) == ["stop"]
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
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study(asha={"enabled": False}, max_epochs=2)
    driver = make_driver(study)
    for value in (0.9, 0.8, 0.7, 0.6, 0.5):
        trial = hand_out(driver).trial
        assert train(driver, trial, {1: value}) == ["continue"]
        train(driver, trial, {2: value})
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
    start_search: StartSearch, train: Train, make_epoch: MakeEpoch, diverged: dict[str, Any]
) -> None:
    study, driver = start_search()
    train(driver, 0, {1: 0.7})
    verdict = driver.on_epoch(0, make_epoch(2, **({"val_accuracy": 0.1} | diverged)))
    assert verdict.action == "stop"
    frozen = _frozen(study, 0)
    assert (frozen.state, frozen.values) == (TrialState.FAIL, None)
    assert frozen.intermediate_values == {1: 0.7}
    assert frozen.user_attrs["infeasible"] is True
    trial = study.trial(0)
    assert (trial.outcome, len(trial.epochs)) == ("infeasible", 2)
    assert trial.reason == "diverged: the loss is not finite at epoch 2"


def test_an_error_fails_the_trial_with_the_last_line_and_the_study_goes_on(
    start_search: StartSearch, hand_out: HandOut
) -> None:
    study, driver = start_search()
    trace = "Traceback (most recent call last):\n  File ...\nValueError: images are too small\n"
    driver.on_failure(0, Failure(kind="bug", reason=trace.splitlines()[-1], trace=trace))
    assert _frozen(study, 0).state == TrialState.FAIL
    trial = study.trial(0)
    assert (trial.outcome, trial.reason) == ("failed", "ValueError: images are too small")
    # All of it stays with the attempt.
    assert study.record.attempts()[0]["reason"] == trace
    assert hand_out(driver).trial == 1


def test_observers_hear_of_every_event_in_order(
    start_search: StartSearch, hand_out: HandOut, train: Train, listener: Observer, heard: list[Any]
) -> None:
    # The baselines are over the limit: what never started does not end either.
    _, driver = start_search(
        observers=[listener],
        baselines=["seed-64"],
        max_epochs=2,
        limits={"parameters": 20_000},
    )
    train(driver, 1, {1: 0.5})
    driver.on_failure(1, Failure(kind="worker lost", reason="the worker process died"))
    hand_out(driver)
    train(driver, 1, {2: 0.6})
    assert heard == [
        ("started", 1, 1, "sampler"),
        ("epoch", 1, 1, "continue"),
        ("failed", 1, "worker lost"),
        ("started", 1, 2, "sampler"),
        ("epoch", 1, 2, None),
        ("ended", 1, "complete"),
    ]


def test_networks_over_the_limits_are_not_proposed_and_a_baseline_over_them_is_infeasible(
    make_study: MakeStudy, make_driver: MakeDriver, train: Train
) -> None:
    study = make_study(
        baselines=["seed-64"], max_epochs=1, budget={"trials": 5}, limits={"parameters": 4_000}
    )
    driver = make_driver(study)
    while (assignment := driver.next()) is not None:
        train(driver, assignment.trial, {1: 0.5})
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
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    space = {
        "filters": 4,
        "learning_rate": 0.1,
        "convs_per_block": {"choice": [1, 2]},
        "residual": {"choice": [False, True]},
    }
    points = [{"residual": True, "convs_per_block": 1}, {"residual": True, "convs_per_block": 2}]
    study = make_study(space=space, points=points)
    assert hand_out(make_driver(study)).trial == 1
    trial = study.trial(0)
    assert (trial.outcome, trial.configuration) == ("infeasible", None)
    assert "set convs_per_block to 2" in trial.reason


def test_networks_that_do_not_fit_the_images_are_refused(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    space = {"num_blocks": {"int": [1, 5]}, "filters": 4, "learning_rate": 0.1}
    study = make_study(space=space, points=[{"num_blocks": 5}, {"num_blocks": 4}])
    assert hand_out(make_driver(study)).trial == 1
    assert study.trial(0).reason.startswith("block 5: a 1x1 map is too small for 2x2 pooling")


def test_a_study_all_of_whose_networks_are_refused_says_so(
    make_study: MakeStudy, make_driver: MakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.drive.driver._MOST_REFUSALS", 5)
    driver = make_driver(make_study(limits={"parameters": 10}))
    with pytest.raises(ValueError, match=r"5 proposals in a row .* at most 10 are allowed. Widen"):
        driver.next()


def test_the_budget_of_trials_ends_the_search_when_the_last_one_ends(
    start_search: StartSearch, train: Train
) -> None:
    _, driver = start_search(slots=3, handed_out=2, max_epochs=1, budget={"trials": 2})
    assert driver.next() is None
    assert driver.done and driver.interrupted
    train(driver, 0, {1: 0.5})
    train(driver, 1, {1: 0.5})
    assert driver.done and not driver.interrupted


def test_the_budget_of_epochs_stops_trials_in_flight(
    start_search: StartSearch, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"epochs": 5}, asha={"enabled": False})
    for epoch in (1, 2):
        assert train(driver, 0, {epoch: 0.5}) == ["continue"]
        assert train(driver, 1, {epoch: 0.5}) == ["continue"]
    assert not driver.done
    assert train(driver, 0, {3: 0.5}) == ["stop"]
    assert driver.done
    # An epoch that was under way is recorded.
    assert train(driver, 1, {3: 0.5}) == ["stop"]
    assert not driver.interrupted
    assert [(t.outcome, t.reason, len(t.epochs)) for t in study.trials()] == [
        ("pruned", "the budget ended: 5 epochs", 3),
        ("pruned", "the budget ended: 5 epochs", 3),
    ]


def test_the_budget_of_seconds_stops_trials_in_flight(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study, clock = make_study(budget={"seconds": 60}), Clock()
    driver = make_driver(study, clock=clock)
    hand_out(driver)
    clock.now += 59
    assert train(driver, 0, {1: 0.5}) == ["continue"]
    assert not driver.done
    clock.now += 1
    assert driver.seconds == 60
    assert train(driver, 0, {2: 0.5}) == ["stop"]
    assert driver.done and not driver.interrupted
    assert driver.next() is None
    assert study.trial(0).reason == "the budget ended: 60 seconds"


def test_seconds_of_earlier_sessions_count(
    make_study: MakeStudy,
    make_driver: MakeDriver,
    hand_out: HandOut,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, clock = make_study(budget={"seconds": 60}), Clock()
    monkeypatch.setattr(time, "time", clock)
    study.sessions.start("search", host="host", pid=1)
    driver = make_driver(study, clock=clock)
    hand_out(driver)
    clock.now += 45
    train(driver, 0, {1: 0.5})
    clock.now += 5000  # killed some time after that epoch, and begun again
    study = open_study(study.folder)
    study.sessions.start("search", host="host", pid=2)
    driver = make_driver(study, clock=clock)
    assert driver.seconds == 45
    clock.now += 14
    assert not driver.done
    clock.now += 1
    assert driver.done


def test_a_lost_trial_is_pruned_when_the_budget_ends_before_it_goes_on(
    start_search: StartSearch, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"epochs": 2})
    train(driver, 0, {1: 0.5})
    driver.on_failure(1, Failure(kind="worker lost", reason="the worker process died"))
    train(driver, 0, {2: 0.5})
    assert driver.next() is None
    # No trial is left running in a study that is over.
    assert [(t.outcome, t.reason) for t in study.trials()] == [
        ("pruned", "the budget ended: 2 epochs")
    ] * 2
    assert driver.done and not driver.interrupted


def test_a_stopped_search_leaves_its_trials_to_go_on_later(
    make_study: MakeStudy,
    make_driver: MakeDriver,
    hand_out: HandOut,
    train: Train,
    make_epoch: MakeEpoch,
) -> None:
    study = make_study()
    driver = make_driver(study, slots=2)
    first, _ = hand_out(driver), hand_out(driver)
    train(driver, 0, {1: 0.5})
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
    again = hand_out(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 2, 2)
    assert (again.configuration, again.seed) == (first.configuration, first.seed)
    assert hand_out(driver).trial == 1


def test_a_trial_whose_worker_died_goes_on_as_a_further_attempt(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study(max_epochs=3, budget={"trials": 1})
    driver = make_driver(study)
    first = hand_out(driver)
    train(driver, 0, {1: 0.5, 2: 0.6})
    driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
    assert not driver.done, "the budget of trials is not spent while one is lost"
    second = hand_out(driver)
    assert (second.trial, second.attempt, second.from_epoch) == (0, 2, 2)
    assert second.configuration == first.configuration
    assert (second.seed, second.folder) == (first.seed, first.folder)
    train(driver, 0, {3: 0.7})
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
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(budget={"epochs": 4}, asha={"min_competitors": 1})
    train(driver, 0, {1: 0.5, 2: 0.9, 3: 0.7})
    driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
    hand_out(driver)  # its checkpoint is gone: from the beginning
    again = {1: 0.51, 2: 0.89, 3: 0.72, 4: 0.71}
    assert train(driver, 0, again) == ["continue"] * 3 + ["stop"]
    assert _frozen(study, 0).intermediate_values == again
    assert [row.val_accuracy for row in study.record.epochs()] == [0.51, 0.89, 0.72, 0.71]
    # The best by the rung of 1 epoch is not that of a later epoch of the first attempt.
    values = [d["value"] for d in study.record.decisions() if d["rung"] == 1]
    assert values == [0.5, 0.51]


def test_an_audited_trial_runs_on_to_its_end(start_search: StartSearch, train: Train) -> None:
    study, driver = start_search(
        slots=2, max_epochs=4, asha={"min_competitors": 1, "audit_share": 1.0}
    )
    train(driver, 0, {1: 0.7})
    values = {1: 0.3, 2: 0.9, 3: 0.91, 4: 0.92}
    assert train(driver, 1, values) == ["continue"] * 3 + ["stop"]
    assert study.trial(1).outcome == "complete"
    decisions = [(d["trial"], d["epoch"], d["action"]) for d in study.record.decisions()]
    # It is not judged again, nor is it at the rung of 3 epochs for trial 0 to be judged by.
    assert decisions == [(0, 1, "continue"), (1, 1, "audit")]
    train(driver, 0, {2: 0.71, 3: 0.72})
    assert study.record.decisions()[-1]["competitors"] == 0


def test_the_budget_of_device_hours_counts_what_slots_hold(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study, clock = make_study(budget={"device_hours": 0.1}), Clock()  # 360 s of one core
    driver = make_driver(study, slots=3, share=2.0, clock=clock)
    hand_out(driver), hand_out(driver)
    clock.now += 60  # two slots of two cores: 240 s
    assert train(driver, 0, {1: 0.5}) == ["continue"]
    driver.on_failure(1, Failure(kind="bug", reason="ValueError: no", trace="ValueError: no"))
    clock.now += 30  # one slot: 60 s; the idle ones cost nothing
    hand_out(driver)
    clock.now += 14  # two slots again: 56 s
    assert train(driver, 0, {2: 0.5}) == ["continue"]
    assert not driver.done
    clock.now += 1
    assert train(driver, 0, {3: 0.5}) == ["stop"]
    assert train(driver, 2, {1: 0.5}) == ["stop"]
    assert driver.next() is None
    assert driver.done and not driver.interrupted
    assert study.trial(0).reason == "the budget ended: 0.1 device-hours"


def test_a_plateau_lets_trials_in_flight_go_on(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(
        slots=2,
        handed_out=1,
        max_epochs=2,
        asha={"enabled": False},
        budget={"trials": 30, "plateau_trials": 2},
    )
    for trial, value in ((1, 0.8), (2, 0.7), (3, 0.79)):
        assert hand_out(driver).trial == trial
        assert not driver.done
        train(driver, trial, {1: value, 2: value})
    assert driver.next() is None
    assert driver.done and driver.interrupted
    # The one in flight may be the best yet.
    assert train(driver, 0, {1: 0.9, 2: 0.95}) == ["continue", "stop"]
    assert driver.next() is None, "what was ended stays ended"
    assert driver.done and not driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["complete"] * 4


def test_what_a_worker_had_to_do_otherwise_is_said_with_the_end(
    start_search: StartSearch, train: Train
) -> None:
    study, driver = start_search(max_epochs=2, asha={"enabled": False})
    driver.remark(0, "the checkpoint was damaged")
    train(driver, 0, {1: 0.5, 2: 0.5})
    assert study.trial(0).reason == "trained for all 2 epochs (the checkpoint was damaged)"
    assert _frozen(study, 0).user_attrs["remark"] == "the checkpoint was damaged"
