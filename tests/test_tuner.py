"""One small search on a real Ray: a worker is killed, a trial fails, the study goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from data.loader import as_tensors
from model.checkpoint import load_checkpoint
from model.cnn import pixel_statistics
from model.config import Configuration
from model.train import EpochMetrics, Training, fit
from search.config.config import DataSection, StudyConfig
from search.drive.checkpoints import checkpoint_path, found
from search.drive.driver import Driver
from search.engine.tuner import run_search
from search.machine.slots import plan_slots
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.dataset import StudyImages, load_images
from search.record.study import Study, Trial, best_of, create, open_study
from search.seeds import derive_seed

MakeConfig = Callable[..., StudyConfig]
DATA = DataSection(source="synthetic", synthetic_train=1800, validation_images=300)
GOOD, BAD = {"learning_rate": 0.02}, {"learning_rate": 1e-6}
LEARNING_NOTHING, FAILING = 3, 4
NUM_TRIALS = 6
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the search below."""
    return pytest.mark.slow(pytest.mark.timeout(300)(test))


@dataclass
class Killer:
    """An observer that kills one worker, the first time a trial goes on after its first epoch.

    Another one fails by its hand.
    """

    study: Study
    killed: dict[int, int] = field(default_factory=dict)
    """Trial -> process id."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Put a file where one trial would write its checkpoints."""
        if assignment.trial == FAILING:
            assignment.folder.rmdir()
            assignment.folder.write_text("not a folder", encoding="utf-8")

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Kill the trial's process, as the record gives it."""
        if self.killed or decision is None or decision.action != "continue":
            return
        (attempt,) = [row for row in self.study.record.attempts() if row["trial"] == trial]
        self.killed[trial] = attempt["pid"]
        os.kill(attempt["pid"], signal.SIGKILL)

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Wait for epochs."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Wait for epochs."""

    def stopping(self, reason: str) -> None:
        """Wait for epochs."""


@dataclass
class Neighbour:
    """An observer that tries, once, what others on this machine or its network might."""

    listening: set[str] = field(default_factory=set)
    """Addresses that processes of the search listen at."""
    told: str = ""
    """What Ray answers to one with another token."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Look who listens, and knock."""
        if self.listening:
            return
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with suppress(psutil.Error):
                found = process.net_connections("inet")
                self.listening |= {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}
        address = ray.get_runtime_context().gcs_address
        script = f"import ray; from ray._raylet import GcsClient; GcsClient(address={address!r})"
        other = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        answer = subprocess.run(
            [sys.executable, "-c", script], env=other, capture_output=True, text=True
        )
        self.told = answer.stderr if answer.returncode else "welcome"

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Look no more."""

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Look no more."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Look no more."""

    def stopping(self, reason: str) -> None:
        """Look no more."""


@dataclass
class Search:
    """What is left after the search."""

    study: Study
    images: StudyImages
    driver: Driver
    killed: dict[int, int]
    neighbour: Neighbour
    handlers: tuple[Any, Any]
    """What signals did before and after."""

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
    images = load_images(config.data)
    killer, neighbour = Killer(study), Neighbour()
    before = [signal.getsignal(number) for number in SIGNALS]
    driver = run_search(
        study,
        images.train,
        images.validation,
        plan_slots(config.resources),
        observers=[neighbour, killer],
    )
    after = [signal.getsignal(number) for number in SIGNALS]
    yield Search(
        study=open_study(folder),
        images=images,
        driver=driver,
        killed=killer.killed,
        neighbour=neighbour,
        handlers=(before, after),
    )


@on_ray
def test_only_this_machine_reaches_our_ray_and_only_with_its_token(search: Search) -> None:
    assert search.neighbour.listening
    outside = {a for a in search.neighbour.listening if not a.endswith("127.0.0.1") and a != "::1"}
    assert not outside
    assert "uthenticat" in search.neighbour.told


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
        epoch, path = found(search.study.trial_folder(trial.number))[0]
        training, written = load_checkpoint(path, "cpu")
        assert training.epoch == epoch
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
    assert trial.reason.startswith("NotADirectoryError: ")
    assert "\n" not in trial.reason
    (attempt,) = search.attempts(FAILING)
    assert attempt["outcome"] == "failed"
    assert attempt["reason"].startswith("Traceback (most recent call last):")
    assert "checkpoints.py" in attempt["reason"]


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
    assert files == {f"e000{epoch}.safetensors" for epoch in (1, 2, 3)}


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
    driver = run_search(
        study, images.train, images.validation, plan_slots(config.resources), observers=[]
    )
    assert driver.done and not driver.interrupted
    trials = study.trials()
    assert sorted(trial.outcome for trial in trials) == ["complete", "pruned", "pruned"]
    (best,) = (trial for trial in trials if trial.outcome == "complete")
    assert [(row.epoch, row.attempt) for row in best.epochs][-1] == (3, 2)
    first, second = (a for a in study.record.attempts() if a["trial"] == best.number)
    assert (first["outcome"], second["outcome"], second["from_epoch"]) == ("paused", "complete", 1)
    training, _ = load_checkpoint(checkpoint_path(study.trial_folder(best.number), 3), "cpu")
    assert training.epoch == 3
