"""The driver where trials wait for promotion, by hand: no Ray, no training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.prune.asha import LAST_STRETCH
from search.prune.assignment import Assignment, Observer
from search.record.study import Study, open_study

MakeEpoch = Callable[..., EpochMetrics]
MakeDriver = Callable[..., Driver]
HandOut = Callable[[Driver], Assignment]
StartSearch = Callable[..., tuple[Study, Driver]]
Train = Callable[[Driver, int, dict[int, float]], list[str]]


@pytest.fixture
def start_search(start_search: StartSearch) -> StartSearch:
    """Return the shared function, for studies whose trials may wait after 1 and 2 of 4 epochs."""
    best_half = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1}
    return partial(start_search, max_epochs=4, asha=best_half)


def _bring_two_to_the_first_rung(driver: Driver, train: Train) -> None:
    """Train trials 0 and 1 for an epoch: both wait, and trial 0 is the one to be promoted."""
    train(driver, 0, {1: 0.7})
    train(driver, 1, {1: 0.3})


def test_promotion_by_hand(
    start_search: StartSearch, hand_out: HandOut, train: Train, make_epoch: MakeEpoch
) -> None:
    study, driver = start_search(handed_out=0, budget={"trials": 4})
    first = hand_out(driver)
    verdict = driver.on_epoch(0, make_epoch(1, 0.5))
    # It waits: the slot is free, the trial has not ended.
    assert verdict.action == "stop" and verdict.reason.endswith("; waits for promotion")
    assert study.trial(0).outcome == "running"
    assert study.record.attempts()[0]["outcome"] == "paused"
    assert not driver.done
    assert hand_out(driver).trial == 1
    assert train(driver, 1, {1: 0.7, 2: 0.72}) == ["continue", "stop"]
    third = hand_out(driver)
    assert train(driver, 2, {1: 0.6}) == ["stop"]
    assert hand_out(driver).trial == 3
    assert train(driver, 3, {1: 0.1}) == ["stop"]
    # Now the best 2 of 4 may go on from the rung of 1 epoch: the second one, from its checkpoint.
    again = hand_out(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (2, 2, 1)
    assert (again.configuration, again.seed) == (third.configuration, third.seed)
    assert again.folder == third.folder != first.folder
    assert driver.next() is None and not driver.done
    values = {2: 0.8, 3: 0.85, 4: 0.83}
    assert train(driver, 2, values) == ["continue", "continue", "stop"]
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
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    _, driver = start_search(slots=3)
    _bring_two_to_the_first_rung(driver, train)
    assert (hand_out(driver).trial, hand_out(driver).trial) == (0, 3)
    assert driver.next() is None, "three are open"


def test_with_trials_open_the_waiting_ones_wait_on(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"trials": 2})
    train(driver, 0, {1: 0.7})
    assert driver.next() is None and not driver.done
    assert study.trial(0).outcome == "running"
    # The other one comes to the rung, and lets it go on.
    train(driver, 1, {1: 0.3})
    assert hand_out(driver).trial == 0


def test_waiting_trials_end_with_a_budget_that_is_spent(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"epochs": 3})
    _bring_two_to_the_first_rung(driver, train)
    # Trial 0 may go on, but the third epoch is the last one.
    assert (hand_out(driver).trial, hand_out(driver).trial) == (0, 2)
    assert train(driver, 0, {2: 0.71}) == ["stop"]
    assert driver.done and driver.interrupted, "trial 2 is still open"
    assert train(driver, 2, {1: 0.9}) == ["stop"]
    assert driver.next() is None
    assert not driver.interrupted
    assert [(t.outcome, t.reason) for t in study.trials()] == [
        ("pruned", "never promoted: rank 1 of 1 at the rung of 2 epochs"),
        ("pruned", "never promoted: rank 3 of 3 at the rung of 1 epoch"),
        ("pruned", "the budget ended: 3 epochs"),
    ]


def test_in_the_last_stretch_the_best_is_trained_to_its_end_before_anything_new(
    start_search: StartSearch, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    none_by_value = {"reduction_factor": 4, "min_competitors": 20}
    study, driver = start_search(handed_out=0, asha=none_by_value, budget={"epochs": 12})
    for trial in range(9):
        assert hand_out(driver).trial == trial
        assert train(driver, trial, {1: 0.5 + trial / 100}) == ["stop"]
    # Of 12 epochs 3 are left, a quarter and not less: one more may begin.
    assert hand_out(driver).trial == 9
    assert train(driver, 9, {1: 0.4}) == ["stop"]
    assert hand_out(driver).trial == 8
    # It goes on after a new driver has taken over, and ends with the budget.
    driver = make_driver(open_study(study.folder))
    assert hand_out(driver).trial == 8
    assert train(driver, 8, {2: 0.7, 3: 0.7}) == ["continue", "stop"]
    assert driver.next() is None
    promotion = study.record.decisions()[-1]
    assert promotion["reason"].endswith(LAST_STRETCH)


def test_waiting_trials_are_there_after_an_interruption(
    start_search: StartSearch, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"trials": 3})
    train(driver, 0, {1: 0.7})
    driver.stop("SIGINT received")
    assert train(driver, 1, {1: 0.3}) == ["stop"]
    assert driver.next() is None and driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["running", "running"]
    study = open_study(study.folder)
    driver = make_driver(study, slots=2)
    # Neither is in flight: one is promoted, the other waits.
    again = hand_out(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 2, 1)
    assert hand_out(driver).trial == 2
    assert driver.next() is None


def test_a_promoted_trial_whose_worker_died_goes_on_without_another_promotion(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, budget={"trials": 3})
    _bring_two_to_the_first_rung(driver, train)
    assert hand_out(driver).trial == 0
    driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
    again = hand_out(driver)
    assert (again.trial, again.attempt, again.from_epoch) == (0, 3, 1)
    # Its checkpoint was lost too: it passes the rung again as one that was promoted.
    assert train(driver, 0, {1: 0.69, 2: 0.75}) == ["continue", "stop"]
    promotions = [e.trial for e in study.record.events() if e.kind == "promoted"]
    assert promotions == [0]
    assert study.record.decisions()[-2]["reason"] == "promoted before"


def test_observers_hear_of_a_wait_as_a_start_and_no_end(
    start_search: StartSearch, hand_out: HandOut, train: Train, listener: Observer, heard: list[Any]
) -> None:
    _, driver = start_search(observers=[listener], max_epochs=2, budget={"trials": 2})
    train(driver, 0, {1: 0.7})
    hand_out(driver)
    train(driver, 1, {1: 0.3})
    hand_out(driver)
    train(driver, 0, {2: 0.71})
    assert driver.next() is None
    assert heard == [
        *(("started", 0, 1, "sampler"), ("epoch", 0, 1, "pause")),
        *(("started", 1, 1, "sampler"), ("epoch", 1, 1, "pause")),
        *(("started", 0, 2, "sampler"), ("epoch", 0, 2, None), ("ended", 0, "complete")),
        ("ended", 1, "pruned"),
    ]
