"""Trials that wait for a worker: for room that others hold, and for room that never comes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.drive.driver import Driver
from search.engine.cluster import Cluster
from search.engine.place import SETTINGS
from search.engine.preflight import preflight
from search.engine.tuner import run_search
from search.machine.slots import Slots
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.dataset import load_images
from search.record.nodes import nodes_of
from search.record.study import Study, create, open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TWO_OF_THREE = Slots(count=3, threads=1, gpus=0.0)
"""Slots of which the cluster has room for two."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Return a cluster of one node with two CPUs."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=150 << 20,
    )
    yield Cluster("auto")
    ray.shutdown()


@pytest.fixture
def search(
    cluster: Cluster, make_config: Callable[..., StudyConfig], tmp_path: Path
) -> Callable[..., tuple[Study, Driver]]:
    """Return a function that searches on the cluster with a slot too many."""

    def run(**options: object) -> tuple[Study, Driver]:
        config = make_config(
            max_epochs=2,
            data=DataSection(
                source="synthetic", synthetic_train=1000, validation_images=200
            ).model_dump(),
            space={"num_blocks": 1, "filters": 4, "learning_rate": {"float": [0.01, 0.1]}},
            asha={"enabled": False},
            sampler={"kind": "random"},
            budget={"trials": 8},
            resources={"max_concurrent": 3},
        )
        folder = tmp_path / "runs" / "small"
        study = create(config, folder, facts={}, environment={})
        images = load_images(config.data)
        preflight(cluster, config, images.train, folder.parent)
        assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]
        driver = run_search(
            study, images.train, images.validation, TWO_OF_THREE, cluster=cluster, **options
        )
        return open_study(folder), driver

    return run


def test_a_trial_for_which_there_was_no_room_is_trained_in_the_end(
    search: Callable[..., tuple[Study, Driver]],
) -> None:
    study, driver = search()
    assert driver.done and not driver.interrupted
    assert [trial.outcome for trial in study.trials()] == ["complete"] * 8
    assert len(study.record.attempts()) == 8
    (node,) = nodes_of(study)
    assert node.left_at is not None and not node.lost


class Stopper:
    """An observer that asks for an end as soon as an epoch has been trained."""

    def started(self, assignment: Assignment, origin: str) -> None:
        """Wait for epochs."""

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Send the signal that Ctrl-C sends, once."""
        if metrics.epoch == 1 and not getattr(self, "sent", False):
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Wait for epochs."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Wait for epochs."""

    def stopping(self, reason: str) -> None:
        """Wait for the end."""


def test_a_stop_does_not_wait_for_a_trial_that_has_no_worker(
    search: Callable[..., tuple[Study, Driver]],
) -> None:
    study, driver = search(observers=[Stopper()])
    assert driver.interrupted and study.state == "stopped"
    rows = study.record.attempts()
    assert all(row["ended_at"] is not None for row in rows)
    assert [row for row in rows if row["reason"] == "no worker had come to it"]
    assert "lost" not in {row["outcome"] for row in rows}
    assert "running" in {trial.outcome for trial in study.trials()}
