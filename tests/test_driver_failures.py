"""What the driver does about failures, by hand: no Ray, no training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from search.drive.driver import Driver
from search.drive.failure import Failure, Kind
from search.explain.verify import verify
from search.propose.fidelity_sampler import UNTRAINABLE
from search.prune.assignment import Assignment
from search.record.study import Study, open_study

MakeStudy = Callable[..., Study]
MakeDriver = Callable[..., Driver]
HandOut = Callable[[Driver], Assignment]
StartSearch = Callable[..., tuple[Study, Driver]]
Train = Callable[[Driver, int, dict[int, float]], list[str]]

LOST = Failure(kind="worker lost", reason="the worker process died")


def _bug(line: int, message: str = "wrong shape") -> Failure:
    trace = f'Traceback\n  File "cnn.py", line {line}, in forward\nValueError: {message}'
    return Failure(kind="bug", reason=f"ValueError: {message}", trace=trace)


def _kinds(study: Study) -> list[tuple[int, str | None, str]]:
    return [(row["trial"], row["failure"], row["outcome"]) for row in study.record.attempts()]


def test_a_trial_that_loses_four_workers_without_an_epoch_has_failed(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    study = make_study()
    driver = make_driver(study)
    for attempt in (1, 2, 3, 4):
        assignment = hand_out(driver)
        assert (assignment.trial, assignment.attempt) == (0, attempt)
        driver.on_failure(0, LOST)
    trial = study.trial(0)
    assert (trial.outcome, trial.failure) == ("failed", "worker lost")
    assert trial.reason == "its worker died 4 times: the worker process died"
    lost = (0, "worker lost", "lost")
    assert _kinds(study) == [lost, lost, lost, (0, "worker lost", "failed")]
    assert hand_out(driver).trial == 1


def test_losses_with_an_epoch_between_them_do_not_add_up(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    driver = make_driver(make_study(asha={"enabled": False}, max_epochs=30))
    for epoch in range(1, 10):
        assert hand_out(driver).trial == 0
        train(driver, 0, {epoch: 0.5})
        driver.on_failure(0, LOST)
    assert hand_out(driver).trial == 0


def test_a_lost_node_is_never_the_fault_of_a_trial(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    study = make_study()
    driver = make_driver(study)
    lost = Failure(kind="node lost", reason="its node has died")
    for _ in range(11):
        assert hand_out(driver).trial == 0
        driver.on_failure(0, lost)
    assert (hand_out(driver).trial, driver.halted) == (0, "")
    # Unless it brings down whatever it comes to.
    driver.on_failure(0, lost)
    assert (study.trial(0).outcome, study.trial(0).failure) == ("failed", "node lost")


def test_interruptions_are_not_counted_as_lost_workers(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study(asha={"enabled": False})
    for epoch in (1, 2, 3, 4):
        driver = make_driver(study)
        assert hand_out(driver).attempt == epoch
        driver.stop("SIGINT received")
        train(driver, 0, {epoch: 0.5})
    driver = make_driver(study)
    assert hand_out(driver).attempt == 5
    driver.on_failure(0, LOST)
    assert hand_out(driver).attempt == 6


def test_a_worker_that_dies_after_its_trial_ended_changes_nothing(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(max_epochs=1)
    train(driver, 0, {1: 0.5})
    driver.on_failure(0, LOST)
    assert study.trial(0).outcome == "complete"
    assert hand_out(driver).trial == 1


def test_workers_that_all_die_before_an_epoch_halt_the_search(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study()
    driver = make_driver(study)
    for _ in range(6):
        driver.on_failure(hand_out(driver).trial, LOST)
    assert driver.halted.startswith("6 workers in a row died before they finished an epoch: too")
    assert driver.next() is None and driver.interrupted
    # Nothing is lost: the trial that came last goes on with the study.
    assert hand_out(make_driver(study)).trial == study.record.attempts()[-1]["trial"]
    # An epoch in between shows that trainings are possible.
    driver = make_driver(make_study("other"))
    for _ in range(5):
        driver.on_failure(hand_out(driver).trial, LOST)
    trial = hand_out(driver).trial
    train(driver, trial, {1: 0.5})
    driver.on_failure(trial, LOST)
    assert driver.next() is not None and not driver.halted


@pytest.mark.parametrize("kind", ["out of memory", "out of GPU memory"])
def test_a_trial_without_memory_is_tried_once_more_alone_and_is_then_infeasible(
    kind: Kind, start_search: StartSearch, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, max_epochs=2, asha={"enabled": False})
    short = Failure(kind=kind, reason="RuntimeError: can't allocate memory")
    driver.on_failure(0, short)
    assert driver.next() is None, "trial 1 holds memory"
    train(driver, 1, {1: 0.5})
    driver = make_driver(study, slots=2)  # a new driver knows as well
    while (assignment := driver.next()) is not None and assignment.trial != 0:
        train(driver, assignment.trial, {2: 0.5})
    assert assignment is not None and assignment.attempt == 2
    assert driver.next() is None, "it is alone"
    driver.on_failure(0, short)
    trial = study.trial(0)
    assert (trial.outcome, trial.failure) == ("infeasible", kind)
    assert trial.reason.startswith(f"{kind}, also with no other trial beside it: RuntimeError")
    # The sampler takes it for the worst there is.
    (frozen, *_) = study.optuna.get_trials()
    assert (frozen.state, frozen.user_attrs[UNTRAINABLE]) == (TrialState.FAIL, True)
    assert (hand_out(driver).trial, hand_out(driver).trial) == (1, 2)


def test_a_trial_that_gets_its_memory_alone_goes_on_and_the_others_after_it(
    start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(max_epochs=2, asha={"enabled": False})
    driver.on_failure(0, Failure(kind="out of memory", reason="MemoryError"))
    hand_out(driver)
    train(driver, 0, {1: 0.5, 2: 0.6})
    assert (study.trial(0).outcome, study.trial(0).failure) == ("complete", "")
    assert hand_out(driver).trial == 1


def test_a_trial_that_hangs_twice_has_failed(start_search: StartSearch, hand_out: HandOut) -> None:
    study, driver = start_search()
    hung = Failure(kind="hung", reason="no epoch within 3 min")
    driver.on_failure(0, hung)
    assert hand_out(driver).attempt == 2
    driver.on_failure(0, hung)
    trial = study.trial(0)
    assert (trial.outcome, trial.failure) == ("failed", "hung")
    assert trial.reason == "hung: no epoch within 3 min"
    assert UNTRAINABLE not in study.optuna.get_trials()[0].user_attrs


@pytest.mark.parametrize("kind", ["disk full", "data unreadable"])
def test_what_is_no_fault_of_a_trial_halts_the_study_and_loses_nothing(
    kind: Kind, start_search: StartSearch, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(slots=2, max_epochs=3, asha={"enabled": False})
    train(driver, 0, {1: 0.5})
    driver.on_failure(0, Failure(kind=kind, reason="OSError: it says why"))
    assert driver.halted == f"{kind}: OSError: it says why"
    assert train(driver, 1, {1: 0.6}) == ["stop"]
    assert driver.next() is None and driver.done and driver.interrupted
    assert _kinds(study) == [(0, kind, "stopped"), (1, None, "stopped")]
    assert [trial.outcome for trial in study.trials()] == ["running", "running"]
    again = make_driver(study, slots=2)
    assert {hand_out(again).trial, hand_out(again).trial} == {0, 1}


def test_the_same_error_in_three_trials_halts_and_says_how_to_see_it(
    start_search: StartSearch, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    study, driver = start_search()
    for trial, failure in enumerate((_bug(7, "size 3"), _bug(9), _bug(7, "size 5"))):
        driver.on_failure(trial, failure)
        assert not driver.halted
        hand_out(driver)
    driver.on_failure(3, _bug(7, "size 9"))
    assert driver.halted == (
        "the same error ended t0000, t0002, t0003: ValueError: size 9; see it with:"
        " python -m search reproduce small t0003"
    )
    assert [trial.failure for trial in study.trials()] == ["bug"] * 4
    assert driver.next() is None and driver.interrupted
    # Who resumes may have mended it.
    again = make_driver(study)
    assert hand_out(again).trial == 4 and not again.halted


def test_failures_are_verified_as_they_were_told(
    tmp_path: object, start_search: StartSearch, hand_out: HandOut, train: Train
) -> None:
    study, driver = start_search(budget={"trials": 5}, max_epochs=1)
    study.note("data", {"channels": 1, "height": 28, "width": 28, "classes": list("0123456789")})
    driver.on_failure(0, _bug(1))
    for failure in (LOST, Failure(kind="out of memory", reason="MemoryError")):
        driver.on_failure(hand_out(driver).trial, failure)
    driver.on_failure(hand_out(driver).trial, Failure(kind="out of memory", reason="MemoryError"))
    while (assignment := driver.next()) is not None:
        train(driver, assignment.trial, {1: 0.5})
    found = verify(open_study(study.folder))
    assert found.difference is None, str(found)
    ends = [(e.outcome, e.failure) for e in study.record.events(kind="ended")]
    assert ends[:2] == [("failed", "bug"), ("infeasible", "out of memory")]


class Clock:
    """A clock that a test winds on, with a look for hung trials every ten seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def look_for(self, seconds: float, driver: Driver) -> dict[int, str]:
        """Return who is hung after some time."""
        until, found = self.now + seconds, dict[int, str]()
        while self.now < until:
            self.now = min(until, self.now + 10)
            found = driver.flight.hung()
        return found


def test_a_silent_trial_is_hung_after_what_was_learnt(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    clock, study = Clock(), make_study(max_epochs=3, asha={"enabled": False})
    driver = make_driver(study, clock=clock)
    trial = hand_out(driver).trial
    assert clock.look_for(1790, driver) == {}, "nothing is known yet"
    assert clock.look_for(20, driver) == {trial: "no epoch within 30 min"}
    driver.flight.patience.saw(study.trial(trial).multiply_adds, 30.0)
    assert clock.look_for(1, driver) == {trial: "no epoch within 10 min"}
    train(driver, trial, {1: 0.5})  # took 1.5 s, but 30 were known to be possible
    assert clock.look_for(599, driver) == {}
    assert clock.look_for(2, driver) == {trial: "no epoch within 10 min"}


def test_a_driver_that_was_suspended_takes_nobody_for_hung(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    clock = Clock()
    driver = make_driver(make_study(resources={"hang_seconds": 60.0}), clock=clock)
    trial = hand_out(driver).trial
    assert clock.look_for(50, driver) == {}
    clock.now += 3600
    assert driver.flight.hung() == {}
    assert clock.look_for(20, driver) == {trial: "no epoch within 1 min"}


def test_the_limit_of_a_hang_can_be_set(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut
) -> None:
    clock = Clock()
    driver = make_driver(make_study(resources={"hang_seconds": 5.0}), clock=clock)
    trial = hand_out(driver).trial
    assert clock.look_for(5.5, driver) == {trial: "no epoch within 5 s"}


def test_a_trial_that_needs_all_memory_is_alone_also_when_it_is_promoted(
    make_study: MakeStudy, make_driver: MakeDriver, hand_out: HandOut, train: Train
) -> None:
    study = make_study(max_epochs=9, budget={"trials": 12}, asha={"min_competitors": 1})
    driver = make_driver(study, slots=2)
    driver.on_failure(hand_out(driver).trial, Failure(kind="out of memory", reason="MemoryError"))
    assert hand_out(driver).trial == 0
    train(driver, 0, {1: 0.9})  # alone; it waits for others
    driver = make_driver(study, slots=2)
    one, two = hand_out(driver).trial, hand_out(driver).trial
    train(driver, one, {1: 0.1})
    three = hand_out(driver).trial
    train(driver, two, {1: 0.1})
    # Its promotion is due, and waits until nobody holds memory.
    assert driver.next() is None
    train(driver, three, {1: 0.1})
    assert hand_out(driver).trial == 0
    assert driver.next() is None
