"""Two nodes that share nothing: one is lost, and its trial goes on from the driver's checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from model.checkpoint import load_checkpoint
from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.drive.checkpoints import found
from search.drive.driver import Driver
from search.drive.keeper import Keeper
from search.engine.tuner import run_search
from search.machine.slots import worker_environment
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.dataset import load_images
from search.record.study import Study, create

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # Ray does not wait for the processes of a node that it takes away.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
DATA = DataSection(source="synthetic", synthetic_train=6000, validation_images=300)
EPOCHS = 5
HEAD = {"num_cpus": 0, "include_dashboard": False}


@dataclass
class PowerCut:
    """An observer that takes a node away, without warning, after a trial's second epoch there."""

    study: Study
    nodes: dict[int, Any]
    """Process of each worker node -> what removes it. All of them have the same name here."""
    lost: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    """Epochs of the trial whose checkpoints were on the driver's disk then."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Wait for epochs."""

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Remove the node of the first trial that has trained two epochs."""
        folder = self.study.trial_folder(trial)
        assert found(folder)[0][0] >= metrics.epoch  # it was not reported before it was here
        if self.lost or metrics.epoch < 2:
            return
        (attempt,) = [row for row in self.study.record.attempts() if row["trial"] == trial]
        parents = {process.pid for process in psutil.Process(attempt["pid"]).parents()}
        (raylet,) = parents & self.nodes.keys()
        self.lost.append(trial)
        self.there = [epoch for epoch, _ in found(folder)]
        self.nodes[raylet]()

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Do nothing."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Do nothing."""

    def stopping(self, reason: str) -> None:
        """Do nothing."""


def raylet_of(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


@dataclass
class Search:
    """What is left after the search."""

    study: Study
    driver: Driver
    cut: PowerCut


@pytest.fixture(scope="module")
def search(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., StudyConfig]
) -> Iterator[Search]:
    """Search once, on a head without CPUs and two nodes of one."""
    from ray.cluster_utils import Cluster as Nodes

    from search.engine.cluster import joined
    from search.engine.preflight import preflight

    config = make_config(
        max_epochs=EPOCHS,
        data=DATA.model_dump(),
        space={"filters": {"choice": [4, 8]}, "learning_rate": 0.02, "batch_size": 100},
        asha={"enabled": False},
        budget={"trials": 4},
        checkpoints={"keep_best": 1},
    )
    study = create(config, tmp_path_factory.mktemp("runs") / "small", facts={}, environment={})
    images = load_images(config.data)
    before = dict(os.environ)
    os.environ |= worker_environment()
    nodes = Nodes(initialize_head=True, head_node_args=HEAD)
    try:
        workers = [nodes.add_node(num_cpus=1) for _ in range(2)]
        nodes.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = nodes.address

        def remover(node: Any) -> Callable[[], None]:
            return lambda: nodes.remove_node(node, allow_graceful=False)

        cut = PowerCut(study, {raylet_of(node): remover(node) for node in workers})
        keeper = Keeper(study, say=print)
        with joined("auto") as cluster:
            preflight(cluster, config, images.train, study.folder.parent)
            assert cluster.shares_runs  # it is one machine
            cluster.shares_runs = False
            driver = run_search(
                study,
                images.train,
                images.validation,
                cluster.slots(config.resources),
                cluster=cluster,
                observers=(cut, keeper),
            )
        yield Search(study=study, driver=driver, cut=cut)
    finally:
        nodes.shutdown()
        os.environ.clear()
        os.environ.update(before)


def test_every_trial_is_complete_and_no_epoch_was_trained_twice(search: Search) -> None:
    assert search.driver.done and not search.driver.interrupted
    assert [trial.outcome for trial in search.study.trials()] == ["complete"] * 4
    for trial in search.study.trials():
        assert [row.epoch for row in trial.epochs] == list(range(1, EPOCHS + 1))
        assert "first epoch" not in trial.reason


def test_the_trial_of_the_lost_node_goes_on_from_its_checkpoint(search: Search) -> None:
    (trial,) = search.cut.lost
    assert search.cut.there == [2, 1]
    rows = [row for row in search.study.record.attempts() if row["trial"] == trial]
    assert rows[0]["failure"] in ("node lost", "worker lost")
    assert [row["from_epoch"] for row in rows[:2]] == [0, 2]
    assert rows[-1]["outcome"] == "complete"


def test_it_is_said_that_checkpoints_come_to_the_driver(search: Search) -> None:
    place = search.study.folder / "trials"
    assert search.study.noted("shelf") == (
        f"no path is shared: checkpoints come through Ray to the driver's {place}"
    )


def test_the_keeper_finds_plain_files_in_the_study_s_folder(search: Search) -> None:
    best = min(search.study.trials(), key=lambda trial: trial.merit)
    kept: dict[int, list[Path]] = {}
    for trial in search.study.trials():
        paths = [path for _, path in found(search.study.trial_folder(trial.number))]
        if paths:
            kept[trial.number] = paths
    assert list(kept) == [best.number]
    (path,) = kept[best.number]
    training, written = load_checkpoint(path, "cpu")
    assert training.epoch == best.best_epoch
    assert written["epochs"][-1]["val_accuracy"] == best.value
