"""Curves for TensorBoard: what it reads, and what becomes of them on a full disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.drive.tensorboard import VALUE, Board, Curves
from search.record.study import Study, StudyError

MakeEpoch = Callable[..., EpochMetrics]


def read(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(tag)]


def test_tensorboard_reads_what_was_written_also_by_a_later_attempt(
    tmp_path: Path, make_epoch: MakeEpoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tenth file of a process, and the next one in the same second.
    monkeypatch.setattr("search.drive.tensorboard._COUNT", count(9))
    folder = tmp_path / "t0000"
    for attempt in ({1: 0.5, 2: 0.6}, {3: 0.7}):
        curves = Curves(folder)
        for epoch, accuracy in attempt.items():
            curves.add(make_epoch(epoch, accuracy, train_loss=float("nan")))
        curves.close()
    assert len(list(folder.iterdir())) == 2
    assert read(folder, VALUE) == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert [step for step, _ in read(folder, "learning_rate")] == [1, 2, 3]


def test_a_full_disk_is_said_in_one_line_and_what_was_written_stays(
    small_disk: Callable[[int], Path],
    make_epoch: MakeEpoch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    disk = small_disk(65536)
    threads = threading.active_count()
    curves = Curves(disk / "t0000")
    curves.add(make_epoch(1, 0.5))
    (disk / "other").write_bytes(b"x" * (65536 - 3 * 4096))
    written = 1
    with pytest.raises(StudyError) as refused:
        for epoch in range(2, 1000):
            curves.add(make_epoch(epoch, 0.5))
            written = epoch
    assert f"the disk of {disk / 't0000'} is full" in str(refused.value)
    assert "\n" not in str(refused.value)
    curves.close()
    with pytest.raises(StudyError, match="is full"):
        Curves(disk / "t0001").add(make_epoch(1, 0.5))
    assert capfd.readouterr() == ("", "")
    assert threading.active_count() == threads
    assert [step for step, _ in read(disk / "t0000", VALUE)] == list(range(1, written + 1))
    (disk / "other").unlink()
    again = Curves(disk / "t0000")
    again.add(make_epoch(written + 1, 0.5))
    again.close()
    assert read(disk / "t0000", VALUE)[-1] == (written + 1, 0.5)


def test_a_trial_that_ends_while_it_waits_for_another_attempt_is_followed_to_its_end(
    start_search: Callable[..., tuple[Study, Driver]],
    train: Callable[[Driver, int, dict[int, float]], list[str]],
    tmp_path: Path,
) -> None:
    board = Board(tmp_path / "curves", max_blocks=2)
    study, driver = start_search(
        slots=2, observers=[board], budget={"epochs": 1}, asha={"enabled": False}
    )
    driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
    train(driver, 1, {1: 0.5})
    assert driver.next() is None
    assert [trial.outcome for trial in study.trials()] == ["pruned", "pruned"]
    board.close()
