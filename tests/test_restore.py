"""A driver that is killed: the next one goes on from the record as if nothing had happened."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from killing import Kill, Killed

from data.images import ImageShape
from model.config import Configuration
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.propose.sampler import ASK_SECONDS
from search.prune.assignment import Assignment
from search.record.record import EventRow
from search.record.study import Study, create, open_study
from search.seeds import derive_seed

MakeConfig = Callable[..., StudyConfig]
MakeEpoch = Callable[..., EpochMetrics]
SEARCH: dict[str, Any] = {
    "baselines": ["seed-32", "seed-64"],
    "points": [{"num_blocks": 1, "learning_rate": 0.45}],  # one that diverges
    "sampler": {"startup_trials": 3},
    "budget": {"trials": 10},
    "limits": {"parameters": 200_000, "multiply_adds": 700_000},
    "asha": {"form": "stopping"},
}


@pytest.fixture(params=["in steps", "apart"])
def kill(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Kill:
    """Return what kills a driver when a test asks for it."""
    return Kill(monkeypatch, apart=request.param == "apart")


@pytest.fixture
def kill_in_a_step(monkeypatch: pytest.MonkeyPatch) -> Kill:
    """Return what kills a driver so that half a step stays, as it did in earlier versions."""
    return Kill(monkeypatch, apart=True)


def _accuracy(configuration: Configuration, epoch: int) -> float:
    """Return a made-up accuracy: better for middling learning rates, rising with the epochs."""
    rate = math.log10(configuration.training.learning_rate)
    width = sum(configuration.network.filters)
    noise = derive_seed(epoch, configuration.key()) / 2**31
    return (0.9 - 0.1 * abs(rate + 1.3) + 0.001 * width) * (1 - 0.5**epoch) + 0.03 * noise


class Workers:
    """Train, in no time; checkpoints are written before they are reported, as on a real worker."""

    def __init__(self, make_epoch: MakeEpoch) -> None:
        self._make_epoch = make_epoch
        self._checkpoints: dict[int, int] = {}

    def work(self, driver: Driver) -> Iterator[Assignment]:
        """Run the search in one slot; give each assignment when it is handed out."""
        while (assignment := driver.next()) is not None:
            yield assignment
            driver.place(assignment.trial, node="host", pid=1)
            for epoch in self._epochs(assignment):
                self._checkpoints[assignment.trial] = epoch
                accuracy = _accuracy(assignment.configuration, epoch)
                rate = assignment.configuration.training.learning_rate
                diverged = {"train_loss": math.nan} if rate > 0.3 and epoch == 2 else {}
                metrics = self._make_epoch(epoch, accuracy, **diverged)
                if driver.on_epoch(assignment.trial, metrics).action == "stop":
                    break

    def _epochs(self, assignment: Assignment) -> list[int]:
        written = self._checkpoints.get(assignment.trial, 0)
        again = [written] if written > assignment.from_epoch else []
        return again + list(range(written + 1, assignment.configuration.training.epochs + 1))


def _told(study: Study) -> list[Any]:
    """Return all that the record says, but for times and attempts."""
    trials = [
        (t.number, t.state, t.params, t.values, t.intermediate_values, _facts(t.user_attrs))
        for t in study.optuna.get_trials()
    ]
    epochs = [(r.trial, r.epoch, r.val_accuracy, r.train_loss) for r in study.record.epochs()]
    decisions = [
        {key: value for key, value in row.items() if key not in ("id", "at")}
        for row in study.record.decisions()
    ]
    return [trials, epochs, decisions]


def _facts(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if key != ASK_SECONDS}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
) -> list[Any]:
    """Return what a search that is never killed leaves in its record."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    study = create(make_config(**SEARCH), folder, facts={}, environment={})
    for _ in Workers(make_epoch).work(Driver(study, shape=shape, slots=1)):
        pass
    # The search has all that a restart could get wrong.
    trials = study.trials()
    assert {trial.outcome for trial in trials} == {"complete", "pruned", "infeasible"}
    assert any(trial.outcome == "infeasible" and not trial.epochs for trial in trials)
    assert any(trial.outcome == "infeasible" and trial.epochs for trial in trials)
    return _told(study)


@pytest.mark.parametrize("writes", [11, 20, 67])
def test_a_search_killed_again_and_again_is_the_search_that_never_was(
    undisturbed: list[Any],
    tmp_path: Path,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
    kill: Kill,
    writes: int,
) -> None:
    create(make_config(**SEARCH), tmp_path / "killed", facts={}, environment={})
    workers = Workers(make_epoch)
    deaths = 0
    while deaths < 500:
        study = open_study(tmp_path / "killed")
        kill.left = writes
        try:
            driver = Driver(study, shape=shape, slots=1)
            for _ in workers.work(driver):
                pass
            break
        except Killed:
            deaths += 1
        finally:
            kill.left = math.inf
    assert deaths > 1
    assert driver.done and not driver.interrupted
    assert _told(study) == undisturbed
    # Attempts that a killed driver left behind are closed.
    assert all(row["outcome"] for row in study.record.attempts())


def test_a_proposal_that_was_about_to_be_refused_is_not_trained(
    tmp_path: Path, make_config: MakeConfig, shape: ImageShape, kill_in_a_step: Kill
) -> None:
    config = make_config(baselines=["seed-64"], limits={"parameters": 20_000}, budget={"trials": 2})
    study = create(config, tmp_path / "refused", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=1)
    kill_in_a_step.left = 2  # it is in the study and was told; its end is still to come
    with pytest.raises(Killed):
        driver.next()
    kill_in_a_step.left = math.inf
    assert study.trial(0).outcome == "running"
    study = open_study(tmp_path / "refused")
    driver = Driver(study, shape=shape, slots=3)
    # Two others, for it does not count for the budget.
    found = [driver.next() for _ in range(3)]
    assert [assignment and assignment.trial for assignment in found] == [1, 2, None]
    assert study.trial(0).outcome == "infeasible"
    assert study.trial(0).reason.endswith("parameters, but at most 20000 are allowed")


def test_trials_in_flight_are_handed_out_first_and_budgets_go_on(
    tmp_path: Path, make_config: MakeConfig, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    stopping = {"form": "stopping"}
    config = make_config(budget={"trials": 4, "epochs": 8}, max_epochs=3, asha=stopping)
    study = create(config, tmp_path / "two", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=2)
    first = [driver.next(), driver.next()]
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_epoch(1, make_epoch(1, 0.5))
    driver.on_epoch(1, make_epoch(2, 0.6))

    study = open_study(tmp_path / "two")
    driver = Driver(study, shape=shape, slots=3)
    again = [driver.next(), driver.next()]
    for before, after, epochs in zip(first, again, (1, 2), strict=True):
        assert before is not None and after is not None
        assert (after.trial, after.configuration) == (before.trial, before.configuration)
        assert (after.seed, after.attempt, after.from_epoch) == (before.seed, 2, epochs)
    third = driver.next()
    assert third is not None and third.trial == 2
    # The first attempts ended with the driver.
    assert [(row["trial"], row["attempt"], row["outcome"]) for row in study.record.attempts()] == [
        *((0, 1, "stopped"), (0, 2, None), (1, 1, "stopped"), (1, 2, None), (2, 1, None)),
    ]
    # 3 epochs were trained before; the eighth is the last.
    for trial, epoch in ((0, 2), (0, 3), (1, 3), (2, 1)):
        driver.on_epoch(trial, make_epoch(epoch, 0.7))
    assert not driver.done
    assert driver.on_epoch(2, make_epoch(2, 0.7)).action == "stop"
    assert driver.done and not driver.interrupted


def test_a_value_that_came_with_a_diverged_epoch_is_in_no_rung(
    tmp_path: Path, make_config: MakeConfig, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    config = make_config(asha={"form": "stopping", "min_competitors": 1})
    study = create(config, tmp_path / "diverged", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=3)
    for _ in range(3):
        driver.next()
    driver.on_epoch(0, make_epoch(1, 0.99, train_loss=math.nan))
    driver.on_epoch(1, make_epoch(1, 0.5))
    study = open_study(tmp_path / "diverged")
    driver = Driver(study, shape=shape, slots=3)
    for _ in range(2):
        driver.next()
    driver.on_epoch(2, make_epoch(1, 0.6))
    decision = study.record.decisions()[-1]
    assert (decision["trial"], decision["rank"], decision["competitors"]) == (2, 1, 1)


PROMOTION: dict[str, Any] = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1}


def test_a_promotion_that_was_told_is_not_made_again(
    tmp_path: Path,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
    kill_in_a_step: Kill,
) -> None:
    study = create(make_config(asha=PROMOTION), tmp_path / "p", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=1)
    for trial, value in ((0, 0.7), (1, 0.3)):
        driver.next()
        driver.on_epoch(trial, make_epoch(1, value))
    kill_in_a_step.left = 1  # the promotion is in the record; its attempt is still to come
    with pytest.raises(Killed):
        driver.next()
    kill_in_a_step.left = math.inf
    study = open_study(tmp_path / "p")
    driver = Driver(study, shape=shape, slots=2)
    again = driver.next()
    assert again is not None and (again.trial, again.attempt, again.from_epoch) == (0, 2, 1)
    assert [event.trial for event in study.record.events() if event.kind == "promoted"] == [0]
    other = driver.next()
    assert other is not None and other.trial == 2, "trial 1 waits still"


def test_a_search_that_is_over_stays_as_it_is(
    tmp_path: Path, make_config: MakeConfig, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    config = make_config(asha=PROMOTION, budget={"trials": 3}, max_epochs=4)
    study = create(config, tmp_path / "over", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=1)
    for _ in Workers(make_epoch).work(driver):
        pass
    assert "pruned" in {trial.outcome for trial in study.trials()}
    before = _told(study), study.record.events()
    study = open_study(tmp_path / "over")
    driver = Driver(study, shape=shape, slots=1)
    assert driver.done and driver.next() is None and not driver.interrupted
    assert (_told(study), study.record.events()) == before


def test_epochs_that_were_trained_twice_count_once_after_a_restart(
    tmp_path: Path, make_config: MakeConfig, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    config = make_config(asha={"enabled": False}, budget={"epochs": 4})
    study = create(config, tmp_path / "twice", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=1)
    driver.next()
    for _ in range(2):  # the checkpoint is lost with the worker
        for epoch in (1, 2):
            driver.on_epoch(0, make_epoch(epoch, 0.5))
        driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
        driver.next()
    driver = Driver(open_study(tmp_path / "twice"), shape=shape, slots=1)
    driver.next()
    assert driver.on_epoch(0, make_epoch(3, 0.5)).action == "continue"
    assert driver.on_epoch(0, make_epoch(4, 0.5)).action == "stop"
    assert driver.done


def test_a_regret_bound_that_was_due_when_the_driver_died_is_made_up_for(
    tmp_path: Path,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = {"trials": 27, "regret_bound": 1e-9}
    config = make_config(asha={"enabled": False}, max_epochs=1, budget=budget)
    studies = {
        name: create(config, tmp_path / name, facts={}, environment={})
        for name in ("lasting", "killed")
    }
    for _ in Workers(make_epoch).work(Driver(studies["lasting"], shape=shape, slots=1)):
        pass

    def killed(self: Any, key: str, value: Any) -> None:
        raise Killed

    workers = Workers(make_epoch)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optuna.Study, "set_user_attr", killed)
        for _ in workers.work(Driver(studies["killed"], shape=shape, slots=1)):
            pass
    assert studies["killed"].noted("regret_bounds") is None
    study = open_study(tmp_path / "killed")
    for _ in workers.work(Driver(study, shape=shape, slots=1)):
        pass
    bounds = study.noted("regret_bounds")
    assert list(bounds) == ["20", "25"]
    assert bounds == studies["lasting"].noted("regret_bounds")


def test_a_restart_reads_the_trials_a_few_times_however_many_wait(
    tmp_path: Path,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(asha=PROMOTION | {"min_competitors": 99}, budget={"trials": 12})
    study = create(config, tmp_path / "waiting", facts={}, environment={})
    driver = Driver(study, shape=shape, slots=1)
    for trial in range(11):
        assert driver.next() is not None
        driver.on_epoch(trial, make_epoch(1, 0.5))
    study, reads = open_study(tmp_path / "waiting"), []
    read = study.optuna.get_trials
    monkeypatch.setattr(
        study.optuna, "get_trials", lambda *args, **more: reads.append(1) or read(*args, **more)
    )
    driver = Driver(study, shape=shape, slots=1)
    assert len(driver._strategy.paused) == 11
    assert len(reads) <= 3


TRIALS = int(os.environ.get("RESTORE_TRIALS", "14"))
"""Of each search below. RESTORE_TRIALS=60 is the long form: fifty kills and more, a minute each."""
SEARCHES: dict[str, dict[str, Any]] = {
    "stopping": {"asha": {"form": "stopping", "audit_share": 0.3}},
    "promotion": {"asha": {"form": "promotion", "audit_share": 0.2}},
    "brackets": {"asha": {"form": "promotion", "brackets": 2}},
    "growing": {"asha": {"form": "promotion", "grow": True}},
    "tpe": {"sampler": {"kind": "tpe", "startup_trials": 3}},
    "plateau": {
        "asha": {"form": "promotion"},
        "budget": {"trials": TRIALS, "plateau_trials": TRIALS // 2},
    },
}


KEPT = {
    "stopping": {("stop", 0), ("audit", 0)},
    "promotion": {("pause", 0), ("promote", 0), ("audit", 0)},
    "brackets": {("pause", 0), ("promote", 0), ("pause", 1)},
    "growing": {("pause", 0), ("promote", 0)},
    "tpe": {("stop", 0)},
    "plateau": {("pause", 0), ("promote", 0)},
}
"""Actions, each with its bracket, that the search must hold."""


class Clockwork:
    """Several slots on a clock of their own; what they have trained outlives the driver."""

    def __init__(self, make_epoch: MakeEpoch) -> None:
        self._make_epoch = make_epoch
        self._due: dict[tuple[int, int], float] = {}
        """Trial and epoch -> when the epoch is over."""
        self.now = 0.0

    def run(self, study: Study, shape: ImageShape, *, slots: int) -> Driver:
        """Search until nothing more is handed out."""
        driver = Driver(study, shape=shape, slots=slots, clock=lambda: self.now)
        open_trials: dict[int, tuple[Assignment, int]] = {}
        while True:
            while (assignment := driver.next()) is not None:
                open_trials[assignment.trial] = (assignment, assignment.from_epoch)
                self._schedule(assignment, assignment.from_epoch + 1)
            if not open_trials:
                return driver
            trial = min(open_trials, key=lambda t: (self._due[t, open_trials[t][1] + 1], t))
            assignment, done = open_trials[trial]
            self.now = self._due[trial, done + 1]
            accuracy = _accuracy(assignment.configuration, done + 1)
            rate = assignment.configuration.training.learning_rate
            diverged = {"train_loss": math.nan} if rate > 0.3 and done == 1 else {}
            metrics = self._make_epoch(done + 1, accuracy, **diverged)
            if driver.on_epoch(trial, metrics).action == "stop":
                del open_trials[trial]
            else:
                open_trials[trial] = (assignment, done + 1)
                self._schedule(assignment, done + 2)

    def _schedule(self, assignment: Assignment, epoch: int) -> None:
        # A worker that goes on after the driver's death has lost no time.
        seconds = 1.0 + derive_seed(0, assignment.configuration.key()) / 2**31
        begun = self._due.get((assignment.trial, epoch - 1), self.now)
        self._due.setdefault((assignment.trial, epoch), max(begun, self.now) + seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SEARCHES)
def test_four_slots_killed_at_random_moments_decide_as_if_never_killed(
    kind: str,
    tmp_path: Path,
    make_config: MakeConfig,
    make_epoch: MakeEpoch,
    shape: ImageShape,
    kill: Kill,
) -> None:
    config = make_config(**(SEARCH | {"budget": {"trials": TRIALS}} | SEARCHES[kind]))
    lasting = create(config, tmp_path / "lasting", facts={}, environment={})
    assert Clockwork(make_epoch).run(lasting, shape, slots=4).done
    create(config, tmp_path / "killed", facts={}, environment={})
    clock, moments, deaths = Clockwork(make_epoch), random.Random(kind), 0
    while True:
        study = open_study(tmp_path / "killed")
        # Oftener where more can go wrong: every kill costs a tenth of a second.
        kill.left = moments.randrange(5, 20 if kind in ("stopping", "promotion") else 35)
        try:
            driver = clock.run(study, shape, slots=4)
            break
        except Killed:
            deaths += 1
        finally:
            kill.left = math.inf
    # The search has what a restart could get wrong, and was killed often enough to get it wrong.
    assert {(row["action"], row["bracket"]) for row in study.record.decisions()} >= KEPT[kind]
    assert deaths >= (10 if kind in ("stopping", "promotion") else 5) * TRIALS // 14
    assert driver.done and not driver.interrupted
    assert _told(study) == _told(lasting)
    assert [_event(e) for e in study.record.events()] == [
        _event(e) for e in lasting.record.events()
    ]


def _event(row: EventRow) -> tuple[Any, ...]:
    return (row.kind, row.trial, row.epoch, row.value, row.outcome, row.reason)
