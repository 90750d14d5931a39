"""One small search on a real Ray: a worker is killed, a trial fails, the study goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from data.loader import as_tensors
from model.checkpoint import load_checkpoint
from model.cnn import pixel_statistics
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import EpochMetrics, Training, fit
from search.assignment import Assignment
from search.bridge import as_config
from search.config import DataSection, ResourcesSection, StudyConfig
from search.dataset import StudyImages, load_images
from search.driver import Driver
from search.ladder import Decision
from search.seeds import derive_seed
from search.slots import plan_slots
from search.study import Study, Trial, best_of, create, open_study
from search.trial import TrialWorker
from search.tuner import run_search

MakeConfig = Callable[..., StudyConfig]
DATA = DataSection(source="synthetic", synthetic_train=1800, validation_images=300)
GOOD, BAD = {"learning_rate": 0.02}, {"learning_rate": 1e-6}
LEARNING_NOTHING, FAILING = 3, 4
NUM_TRIALS = 6


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the search below."""
    return pytest.mark.slow(pytest.mark.timeout(300)(test))


@dataclass
class Killer:
    """An observer that kills one worker, the first time a trial goes on after its first epoch."""

    study: Study
    killed: dict[int, int] = field(default_factory=dict)
    """Trial -> process id."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Wait for epochs."""

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Kill the trial's process, as the record gives it."""
        if self.killed or decision is None or decision.action != "continue":
            return
        (attempt,) = [row for row in self.study.record.attempts() if row["trial"] == trial]
        self.killed[trial] = attempt["pid"]
        os.kill(attempt["pid"], signal.SIGKILL)

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Wait for epochs."""

    def stopping(self) -> None:
        """Wait for epochs."""


@dataclass
class Search:
    """What is left after the search."""

    study: Study
    images: StudyImages
    driver: Driver
    killed: dict[int, int]
    handlers: tuple[Any, Any]
    """What SIGINT and SIGTERM did before and after."""

    @property
    def trials(self) -> list[Trial]:
        """Return the trials, by number."""
        return self.study.trials()

    def attempts(self, trial: int) -> list[dict[str, Any]]:
        """Return the attempts of one trial."""
        return [row for row in self.study.record.attempts() if row["trial"] == trial]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Iterator[Search]:
    """Search once for all tests of this file."""
    config = make_config(
        max_epochs=3,
        data=DATA.model_dump(),
        space={
            "filters": {"choice": [4, 8]},
            "learning_rate": {"float": [1e-6, 0.1], "log": True},
            "batch_size": 100,
            "optimizer": "adamw",
            "schedule": "constant",
        },
        # Even if one of the two workers starts late, two trials are at the rung before the bad one.
        points=[GOOD, GOOD, GOOD, BAD, GOOD],
        asha={"form": "stopping", "reduction_factor": 2, "min_competitors": 2},
        budget={"trials": NUM_TRIALS},
        resources={"max_concurrent": 2},
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    study = create(config, folder, facts={}, environment={})
    # A folder where the checkpoint should be written: the worker cannot.
    (study.trial_folder(FAILING) / "last.safetensors" / "taken").mkdir(parents=True)
    images = load_images(config.data)
    killer = Killer(study)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    driver = run_search(study, images.train, images.validation, observers=[killer])
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield Search(
        study=open_study(folder),
        images=images,
        driver=driver,
        killed=killer.killed,
        handlers=(before, after),
    )


@on_ray
def test_every_trial_of_the_budget_ended(search: Search) -> None:
    assert search.driver.done and not search.driver.interrupted
    assert search.study.state == "searched"
    trials = search.trials
    # The trial whose worker was killed counts once, the one that failed did not end the study.
    assert len(trials) == NUM_TRIALS
    outcomes = [trial.outcome for trial in trials]
    assert set(outcomes) == {"complete", "pruned", "failed"}
    assert [trial.number for trial in trials if trial.outcome == "failed"] == [FAILING]
    assert trials[LEARNING_NOTHING].outcome == "pruned"
    assert all(len(t.epochs) == 3 for t in trials if t.outcome == "complete")
    best = best_of(trials)
    assert best is not None and best.outcome == "complete"
    assert best.value is not None and best.value > 0.3
    (session,) = search.study.sessions.all()
    assert (session["stage"], session["pid"]) == ("search", os.getpid())
    assert session["ended_at"] is not None


@on_ray
def test_the_epochs_told_to_optuna_are_those_recorded(search: Search) -> None:
    for trial, frozen in zip(search.trials, search.study.optuna.get_trials(), strict=True):
        recorded = {row.epoch: row.val_accuracy for row in trial.epochs}
        assert frozen.intermediate_values == recorded
        assert list(recorded) == list(range(1, len(recorded) + 1))


@on_ray
def test_every_checkpoint_is_that_of_the_last_epoch(search: Search) -> None:
    for trial in search.trials:
        if trial.number == FAILING:
            continue
        path = search.study.trial_folder(trial.number) / "last.safetensors"
        training, written = load_checkpoint(path, "cpu")
        assert training.configuration.to_dict() == trial.configuration
        assert training.epoch == len(trial.epochs)
        accuracies = [metrics["val_accuracy"] for metrics in written["epochs"]]
        assert accuracies == [row.val_accuracy for row in trial.epochs]


@on_ray
def test_attempts_say_where_they_ran_and_workers_are_used_again(search: Search) -> None:
    attempts = search.study.record.attempts()
    assert all(row["node"] == os.uname().nodename for row in attempts)
    (killed,) = search.killed.values()
    pids = {row["pid"] for row in attempts}
    assert killed in pids
    # Two slots: two processes, and one in place of that which was killed.
    assert os.getpid() not in pids
    assert len(pids - {killed}) <= 2
    assert all(row["outcome"] and row["ended_at"] >= row["started_at"] for row in attempts)


@on_ray
def test_an_error_in_the_worker_is_recorded_with_its_reason(search: Search) -> None:
    trial = search.trials[FAILING]
    assert trial.reason.startswith("IsADirectoryError: ")
    assert "\n" not in trial.reason
    (attempt,) = search.attempts(FAILING)
    assert attempt["outcome"] == "failed"
    assert attempt["reason"].startswith("Traceback (most recent call last):")
    assert "save_checkpoint" in attempt["reason"]


@on_ray
def test_a_killed_worker_s_trial_goes_on_from_its_checkpoint(search: Search) -> None:
    ((number, pid),) = search.killed.items()
    first, second = search.attempts(number)
    assert (first["pid"], first["outcome"]) == (pid, "lost")
    assert first["reason"] == "the worker process died"
    assert second["from_epoch"] == 1
    assert second["pid"] != pid
    trial = search.trials[number]
    assert [row.attempt for row in trial.epochs] == [1] + [2] * (len(trial.epochs) - 1)
    assert len(trial.epochs) > 1


@on_ray
def test_a_trial_that_lost_its_worker_trained_as_if_it_had_not(search: Search) -> None:
    (number,) = search.killed
    trial = search.trials[number]
    assert trial.configuration is not None
    train = as_tensors(search.images.train, "cpu")
    mean, std = pixel_statistics(train[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on the worker: sums are taken in the same order
    try:
        training = Training.start(
            Configuration.from_dict(trial.configuration),
            search.images.train.shape,
            mean=mean,
            std=std,
            seed=derive_seed(search.study.config.seed, "trial", number),
            device=torch.device("cpu"),
        )
        validation = as_tensors(search.images.validation, "cpu")
        undisturbed = [m.val_accuracy for m in fit(training, train, validation)]
    finally:
        torch.set_num_threads(threads)
    assert [row.val_accuracy for row in trial.epochs] == undisturbed[: len(trial.epochs)]


@on_ray
def test_nothing_of_ray_is_left(search: Search) -> None:
    import ray

    assert not ray.is_initialized()
    before, after = search.handlers
    assert after == before
    names = {path.name for path in search.study.folder.iterdir()}
    assert {name.partition(".")[0] for name in names} == {"config", "study", "trials"}
    files = {path.name for path in Path(search.study.folder / "trials").rglob("*.*")}
    assert files == {"last.safetensors"}


@on_ray
def test_a_trial_that_waits_gives_its_slot_back_and_goes_on_from_its_checkpoint(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    config = make_config(
        max_epochs=3,
        data=DATA.model_dump(),
        space={"filters": {"choice": [4, 8]}, "learning_rate": 0.02, "batch_size": 300},
        points=[{"filters": 4}, {"filters": 8}, {"filters": 4}],
        # One rung, at 1 epoch; one of three goes on, when all have been there.
        asha={"form": "promotion", "min_competitors": 2},
        budget={"trials": 3},
        resources={"max_concurrent": 1},
    )
    study = create(config, tmp_path / "waiting", facts={}, environment={})
    images = load_images(config.data)
    driver = run_search(study, images.train, images.validation, observers=[])
    assert driver.done and not driver.interrupted
    trials = study.trials()
    assert sorted(trial.outcome for trial in trials) == ["complete", "pruned", "pruned"]
    (best,) = (trial for trial in trials if trial.outcome == "complete")
    assert [(row.epoch, row.attempt) for row in best.epochs][-1] == (3, 2)
    first, second = (a for a in study.record.attempts() if a["trial"] == best.number)
    assert (first["outcome"], second["outcome"], second["from_epoch"]) == ("paused", "complete", 1)
    training, _ = load_checkpoint(study.trial_folder(best.number) / "last.safetensors", "cpu")
    assert training.epoch == 3


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "expected"),
    [
        (4, 0, {}, (4, 1, 0.0)),
        (8, 0, {"cpus_per_trial": 3}, (2, 3, 0.0)),
        (8, 0, {"max_concurrent": 3}, (3, 1, 0.0)),
        (2, 0, {"max_concurrent": 8}, (2, 1, 0.0)),
        (16, 1, {}, (4, 1, 0.25)),  # auto: a quarter of a GPU
        (2, 1, {}, (2, 1, 0.25)),
        (16, 1, {"gpus_per_trial": 0.1}, (10, 1, 0.1)),
        (16, 2, {"gpus_per_trial": 0.4}, (4, 1, 0.4)),  # a share does not lie on two GPUs
        (16, 8, {"gpus_per_trial": 2}, (4, 1, 2.0)),
        (16, 1, {"gpus_per_trial": 0}, (16, 1, 0.0)),
    ],
)
def test_slots_divide_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    gpus: int,
    resources: dict[str, Any],
    expected: tuple[int, int, float],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    slots = plan_slots(ResourcesSection(**resources))
    assert (slots.count, slots.threads, slots.gpus) == expected


def test_a_trial_that_asks_for_more_than_the_machine_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="cpus_per_trial` is 3, but this machine has 2 CPUs"):
        plan_slots(ResourcesSection(cpus_per_trial=3))
    with pytest.raises(
        ValueError, match=r"gpus_per_trial` is 0\.5, but this machine has 0 GPUs; set"
    ):
        plan_slots(ResourcesSection(gpus_per_trial=0.5))


def _worker(config: dict[str, Any]) -> TrialWorker:
    """Return a worker at the beginning of an assignment, in this process."""
    images = load_images(DataSection(source="synthetic", synthetic_train=200, validation_images=50))
    worker = TrialWorker.__new__(TrialWorker)  # Ray's own __init__ is for its processes
    worker.setup(
        config,
        train=images.train,
        validation=images.validation,
        pixels=((70.0,), (80.0,)),
        threads=torch.get_num_threads(),
    )
    return worker


@pytest.fixture
def assignment(tmp_path: Path) -> dict[str, Any]:
    """Return an assignment of three epochs, as it travels to a worker."""
    configuration = Configuration(
        network=NetworkConfig(filters=(4,)), training=TrainingConfig(epochs=3, learning_rate=0.01)
    )
    return as_config(
        Assignment(
            trial=7,
            attempt=1,
            configuration=configuration,
            seed=5,
            checkpoint=tmp_path / "last.safetensors",
        )
    )


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    assert report["failure"] == ""
    timed = ("seconds", "images_per_second")
    return {key: value for key, value in report["metrics"].items() if key not in timed}


@pytest.mark.parametrize("recorded", [0, 1])
def test_epochs_that_were_written_but_are_not_in_the_record_are_told_again(
    assignment: dict[str, Any], recorded: int
) -> None:
    undisturbed = _worker(assignment | {"checkpoint": assignment["checkpoint"] + ".other"})
    expected = [_without_times(undisturbed.step()) for _ in range(3)]
    worker = _worker(assignment)
    for _ in range(2):
        worker.step()  # and dies; the record holds fewer
    worker = _worker(assignment | {"attempt": 2, "from_epoch": recorded})
    assert [_without_times(worker.step()) for _ in range(3 - recorded)] == expected[recorded:]


def test_what_the_record_holds_is_not_told_again(assignment: dict[str, Any]) -> None:
    _worker(assignment).step()
    worker = _worker(assignment | {"attempt": 2, "from_epoch": 1})
    assert [worker.step()["metrics"]["epoch"] for _ in range(2)] == [2, 3]


def test_a_damaged_checkpoint_is_said_and_the_trial_begins_again(
    assignment: dict[str, Any],
) -> None:
    worker = _worker(assignment)
    first = _without_times(worker.step())
    path = Path(assignment["checkpoint"])
    path.write_bytes(path.read_bytes()[:-10])
    worker = _worker(assignment | {"attempt": 2, "from_epoch": 1})
    again = worker.step()
    assert _without_times(again) == first
    assert str(path) in again["remark"]
    assert "started again from its first epoch" in again["remark"]


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(
    assignment: dict[str, Any],
) -> None:
    worker = _worker(assignment)
    worker.step()
    other = Configuration.from_dict(assignment["configuration"]).to_dict()
    other["network"]["filters"] = [8]
    worker.reset_config(assignment | {"configuration": other, "from_epoch": 1})
    assert worker.step()["metrics"]["epoch"] == 1


def test_an_error_in_the_worker_is_reported_not_raised(assignment: dict[str, Any]) -> None:
    Path(assignment["checkpoint"]).mkdir()
    report = _worker(assignment).step()
    assert report["trial"] == 7
    assert report["metrics"] is None
    assert "IsADirectoryError" in report["failure"]
