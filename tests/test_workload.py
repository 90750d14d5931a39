"""Which node trained what, and how busy its slots were."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.explain.workload import Workload, workloads
from search.record.nodes import Nodes, nodes_of
from search.record.study import Study, open_study

Start = Callable[..., tuple[Study, Driver]]
Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return what lets the time of day go on; it stands still otherwise."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def _searched(start_search: Start, make_epoch: Callable[..., EpochMetrics], clock: Clock) -> Study:
    """Search for 100 s: two slots of a for all of it, one of b, which is lost in the middle."""
    study, driver = start_search(
        slots=4, handed_out=0, budget={"trials": 3}, asha={"enabled": False}, max_epochs=1
    )
    session = study.sessions.start("search", host="head", pid=1)
    nodes = Nodes(study)
    nodes.joined(id="aa", name="a", ip="10.0.0.1", cpus=2.0, gpus=0.0, slots=2)
    nodes.joined(id="bb", name="b", ip="10.0.0.2", cpus=1.0, gpus=0.0, slots=1)
    first, second = driver.next(), driver.next()
    assert first is not None and second is not None
    driver.place(first.trial, node="a", pid=11)
    driver.place(second.trial, node="b", pid=12)
    clock(50)
    driver.on_epoch(first.trial, make_epoch(1, 0.5))
    nodes.left("bb", lost=True)
    clock(50)
    study.sessions.end(session)
    nodes.end()
    return study


def test_each_node_is_told_with_what_it_did_and_how_busy_it_was(
    start_search: Start, make_epoch: Callable[..., EpochMetrics], clock: Clock
) -> None:
    study = _searched(start_search, make_epoch, clock)
    a, b = workloads(open_study(study.folder))
    assert (a.node, a.slots, a.attempts, a.epochs, a.lost) == ("a", 2, 1, 1, 0)
    assert (b.node, b.slots, b.attempts, b.epochs, b.lost) == ("b", 1, 1, 0, 1)
    # One of the two slots of a, for half of the time.
    assert a.busy_share == pytest.approx(0.25)
    assert b.busy_seconds >= 50
    assert a.to_dict()["busy_share"] == a.busy_share


def test_a_node_that_came_back_is_another_one_in_the_record_and_one_machine_in_the_report(
    start_search: Start, make_epoch: Callable[..., EpochMetrics], clock: Clock
) -> None:
    study = _searched(start_search, make_epoch, clock)
    Nodes(study).joined(id="b2", name="b", ip="10.0.0.2", cpus=2.0, gpus=0.0, slots=2)
    assert [row.id for row in nodes_of(study)] == ["aa", "bb", "b2"]
    assert [row.lost for row in nodes_of(study)] == [False, True, False]
    found = {workload.node: workload for workload in workloads(study)}
    assert (found["b"].slots, found["b"].lost) == (2, 1)


def test_a_search_on_one_machine_is_told_by_its_attempts_alone(
    start_search: Start, make_epoch: Callable[..., EpochMetrics], clock: Clock
) -> None:
    study, driver = start_search(
        slots=4, handed_out=0, budget={"trials": 3}, asha={"enabled": False}, max_epochs=1
    )
    session = study.sessions.start("search", host="here", pid=1)
    assert workloads(study) == []
    for pid in (11, 12):
        assignment = driver.next()
        assert assignment is not None
        driver.place(assignment.trial, node="here", pid=pid)
    clock(10)
    for trial in (0, 1):
        driver.on_epoch(trial, make_epoch(1, 0.5))
    study.sessions.end(session)
    (here,) = workloads(study)
    assert (here.slots, here.trials, here.epochs, here.busy_share) == (2, 2, 2, 1.0)


def test_a_node_that_was_never_there_for_the_search_has_no_share() -> None:
    facts: dict[str, Any] = dict.fromkeys(("slots", "attempts", "trials", "epochs", "lost"), 0)
    nobody = Workload(node="x", busy_seconds=0.0, present_seconds=0.0, **facts)
    assert nobody.busy_share is None


def test_nodes_that_a_killed_driver_left_were_there_until_it_was_last_seen(
    start_search: Start, clock: Clock
) -> None:
    study, _ = start_search(slots=4, handed_out=0)
    study.sessions.start("search", host="head", pid=1)
    Nodes(study).joined(id="aa", name="a", ip="10.0.0.1", cpus=2.0, gpus=0.0, slots=2)
    clock(30)
    study.sessions.see()
    clock(1000)  # killed, and resumed much later
    again = open_study(study.folder)
    again.sessions.start("search", host="head", pid=2)
    Nodes(again).joined(id="ab", name="a", ip="10.0.0.1", cpus=2.0, gpus=0.0, slots=2)
    first, second = nodes_of(again)
    assert first.left_at == first.joined_at + 30
    assert second.left_at is None
