"""A cluster of nodes with GPUs and nodes without: who takes which trial, and what is expected."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.engine.bridge import DriverSearcher
from search.engine.trial import ON_CPU
from search.machine.slots import Slots, slots_on
from search.record.study import Study

Start = Callable[..., tuple[Study, Driver]]


@pytest.mark.parametrize(
    ("gpu_share", "without_gpu", "cpus", "gpus", "held"),
    [
        (0.0, False, 8, 0, 4),
        (0.25, False, 8, 0, 0),
        (0.25, True, 8, 0, 4),
        (0.25, True, 8, 1, 4),
        (0.25, True, 4, 1, 2),  # its CPUs hold no more
        (0.5, True, 64, 2, 4),
        (0.4, True, 64, 2, 4),  # a share lies on one GPU
        (2.0, True, 64, 3, 1),
    ],
)
def test_a_node_holds_what_its_cpus_and_gpus_allow(
    gpu_share: float, without_gpu: bool, cpus: int, gpus: int, held: int
) -> None:
    slots = Slots(count=0, threads=2, gpus=gpu_share, without_gpu=without_gpu)
    assert slots_on(slots, cpus=cpus, gpus=gpus) == held


def test_gpus_are_filled_first_and_the_rest_goes_to_cpus(start_search: Start) -> None:
    _, driver = start_search(slots=4, handed_out=0, asha={"enabled": False})
    searcher = DriverSearcher(driver)
    gpu_slots = [2]
    searcher.spread_over(lambda: gpu_slots[0])
    configs = [searcher.suggest(f"ray-{index}") for index in range(4)]
    assert all(isinstance(config, dict) for config in configs)
    on_cpu = [config[ON_CPU] for config in configs if isinstance(config, dict)]
    assert on_cpu == [False, False, True, True]

    # A trial that leaves a GPU makes room there; a node that is lost takes its room away.
    searcher.on_trial_complete("ray-0")
    driver.resize(5)
    next_one = searcher.suggest("ray-4")
    assert isinstance(next_one, dict) and not next_one[ON_CPU]
    gpu_slots[0] = 1
    driver.resize(6)
    last = searcher.suggest("ray-5")
    assert isinstance(last, dict) and last[ON_CPU]


def test_a_slow_trial_is_not_taken_for_hung_by_the_pace_of_gpus(
    make_study: Callable[..., Study],
    make_driver: Callable[..., Driver],
    make_epoch: Callable[..., EpochMetrics],
) -> None:
    now = 0.0
    driver = make_driver(make_study(asha={"enabled": False}), slots=2, clock=lambda: now)
    fast, slow = driver.next(), driver.next()
    assert fast is not None and slow is not None
    driver.flight.slow_down(slow.trial)
    driver.on_epoch(fast.trial, make_epoch(1, 0.5))
    found = set()
    for _ in range(30):  # in steps: a long gap would be this process's own
        now += 10
        found |= set(driver.flight.hung())
    assert found == {fast.trial}
