"""What Ray really says of workers that died: the words that kinds of failure are told by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.drive.failure import Failure, of_dead_worker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@ray.remote(max_restarts=0)
class Worker:
    """Stands for a trial's worker: it takes the images when it begins."""

    def __init__(self, images: Any = None) -> None:
        self._images = images

    def step(self, seconds: float = 0.0) -> int:
        """Return its process id, after a while."""
        import time

        time.sleep(seconds)
        return os.getpid()

    def put(self) -> list[Any]:
        """Return a reference to an object that lies on this node."""
        return [ray.put(b"x" * 1_000_000)]


def _told(reference: Any) -> Failure:
    with pytest.raises(ray.exceptions.RayError) as raised:
        ray.get(reference, timeout=90)
    return of_dead_worker(str(raised.value), killed_for_memory=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Keep Ray to this machine and end it after the test."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield monkeypatch
    ray.shutdown()


def test_a_node_that_dies_is_told_from_a_worker_that_is_killed(
    environment: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="FATAL")
        first = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node_id=first, soft=False)
        killed = Worker.options(scheduling_strategy=here).remote()
        os.kill(ray.get(killed.step.remote()), 9)
        assert _told(killed.step.remote()).kind == "worker lost"

        there = NodeAffinitySchedulingStrategy(node_id=second.node_id, soft=False)
        far = Worker.options(scheduling_strategy=there).remote()
        (images,) = ray.get(far.put.remote())
        step = far.step.remote(60.0)
        cluster.remove_node(second, allow_graceful=False)
        assert _told(step).kind == "node lost"

        # What lay there only is gone with it. Ray may still send workers there for some seconds.
        reader = Worker.options(scheduling_strategy=here).remote(images)
        assert _told(reader.step.remote()).kind == "data unreadable"
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_worker_that_ray_ends_for_want_of_memory_is_told_so(
    environment: pytest.MonkeyPatch,
) -> None:
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        # Any machine uses more than that: the first worker is too much.
        _system_config={"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 100},
    )
    told = _told(Worker.remote().step.remote(60.0))
    assert told.kind == "out of memory"
    assert "\n" not in told.reason
