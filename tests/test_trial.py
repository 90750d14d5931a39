"""A worker, in this process: what it tells of a trial, and what it goes on from."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
import torch

from model.checkpoint import CheckpointError
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.whole_file import write_whole
from search.config.config import DataSection
from search.drive.shelf import FolderShelf, Shelf
from search.drive.store_shelf import StoreShelf
from search.engine.bridge import as_config
from search.engine.trial import TrialWorker
from search.prune.assignment import Assignment
from search.record.dataset import load_images


def _worker(config: dict[str, Any], shelf: Shelf) -> TrialWorker:
    """Return a worker at the beginning of an assignment, in this process."""
    images = load_images(DataSection(source="synthetic", synthetic_train=200, validation_images=50))
    worker = TrialWorker.__new__(TrialWorker)  # Ray's own __init__ is for its processes
    worker.setup(
        config,
        train=images.train,
        validation=images.validation,
        pixels=((70.0,), (80.0,)),
        shelf=shelf,
        threads=torch.get_num_threads(),
    )
    return worker


@pytest.fixture
def assignment(tmp_path: Path) -> dict[str, Any]:
    """Return an assignment of three epochs, as it travels to a worker."""
    configuration = Configuration(
        network=NetworkConfig(filters=(4,)), training=TrainingConfig(epochs=3, learning_rate=0.01)
    )
    folder = tmp_path / "t0007"
    return as_config(
        Assignment(trial=7, attempt=1, configuration=configuration, seed=5, folder=folder)
    )


@pytest.fixture(scope="module")
def store() -> Iterator[s3_server.Server]:
    """Run an S3 server for the tests of this file."""
    with s3_server.running() as server:
        yield server


@pytest.fixture(params=["folder", "store"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """Return the shelf of the assignment's trial; the relay's is tried out on a cluster."""
    if request.param == "folder":
        return FolderShelf(tmp_path)
    request.getfixturevalue("store")
    return StoreShelf(f"s3://{s3_server.BUCKET}/some/where", tmp_path.name)


def damaged(shelf: Shelf, epoch: int, content: bytes | None = None) -> None:
    """Change one byte in the middle of a checkpoint, or all of it."""
    with shelf.reading(7, epoch) as path:
        raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    with shelf.writing(7, epoch) as path:
        write_whole(path, bytes(raw) if content is None else content)


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    assert report["failure"] == ""
    timed = ("seconds", "images_per_second")
    return {key: value for key, value in report["metrics"].items() if key not in timed}


@pytest.mark.parametrize("recorded", [0, 1])
def test_epochs_that_were_written_but_are_not_in_the_record_are_told_again(
    assignment: dict[str, Any], shelf: Shelf, recorded: int, tmp_path: Path
) -> None:
    undisturbed = _worker(assignment, FolderShelf(tmp_path / "other"))
    expected = [_without_times(undisturbed.step()) for _ in range(3)]
    worker = _worker(assignment, shelf)
    for _ in range(2):
        worker.step()  # and dies; the record holds fewer
    worker = _worker(assignment | {"attempt": 2, "from_epoch": recorded}, shelf)
    assert [_without_times(worker.step()) for _ in range(3 - recorded)] == expected[recorded:]


def test_what_the_record_holds_is_not_told_again(assignment: dict[str, Any], shelf: Shelf) -> None:
    _worker(assignment, shelf).step()
    worker = _worker(assignment | {"attempt": 2, "from_epoch": 1}, shelf)
    assert [worker.step()["metrics"]["epoch"] for _ in range(2)] == [2, 3]


def test_the_newest_two_and_the_best_are_kept(assignment: dict[str, Any], shelf: Shelf) -> None:
    worker = _worker(assignment, shelf)
    scores = [worker.step()["metrics"]["val_accuracy"] for _ in range(3)]
    best = 1 + max(range(3), key=lambda index: (scores[index], index))
    assert list(shelf.sizes(7)) == sorted({3, 2, best}, reverse=True)


@pytest.mark.parametrize("content", [None, b"", b"half"], ids=["a byte", "empty", "cut short"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    assignment: dict[str, Any], shelf: Shelf, content: bytes | None
) -> None:
    worker = _worker(assignment, shelf)
    for _ in range(2):
        worker.step()
    damaged(shelf, 2, content)
    report = _worker(assignment | {"from_epoch": 2}, shelf).step()
    assert (report["failure"], report["metrics"]["epoch"]) == ("", 2)
    said = report["remark"]
    assert said.startswith(f"{shelf.name(7, 2)} is ")
    assert said.endswith("; it went on from epoch 1")
    assert "fashion-shelf" not in said  # where it lay for a moment helps nobody
    assert list(shelf.sizes(7)) == [2, 1]


def test_checkpoints_that_are_gone_are_said_and_the_trial_begins_again(
    assignment: dict[str, Any], shelf: Shelf
) -> None:
    worker = _worker(assignment, shelf)
    for _ in range(2):
        worker.step()
    shelf.discard(7, 2)
    report = _worker(assignment | {"from_epoch": 2}, shelf).step()
    assert report["remark"] == f"{shelf.name(7, 2)} is gone; it went on from epoch 1"
    for epoch in shelf.sizes(7):
        shelf.discard(7, epoch)
    report = _worker(assignment | {"from_epoch": 2}, shelf).step()
    place = f"{shelf.place}/t0007"
    assert report["remark"] == (
        f"no checkpoint is left in {place}; it started again from its first epoch"
    )


def test_one_of_another_configuration_is_not_gone_on_from(
    assignment: dict[str, Any], shelf: Shelf
) -> None:
    _worker(assignment, shelf).step()
    other = json.loads(json.dumps(assignment))
    other["configuration"]["network"]["filters"] = [5]
    report = _worker(other, shelf).step()
    assert report["remark"] == (
        f"{shelf.name(7, 1)} is of another training; it started again from its first epoch"
    )
    assert report["metrics"]["epoch"] == 1


def test_an_error_in_the_worker_is_reported_not_raised(
    assignment: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "t0007").touch()
    report = _worker(assignment, FolderShelf(tmp_path)).step()
    assert report["trial"] == 7
    assert report["metrics"] is None
    assert json.loads(report["failure"])["reason"].startswith("NotADirectoryError")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), "bug"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    ],
    ids=["the disk", "no memory"],
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_given_up(
    assignment: dict[str, Any],
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: str,
) -> None:
    _worker(assignment, shelf).step()
    before = shelf.sizes(7)
    assert list(before) == [1]

    def fail(path: Path, device: object) -> None:
        raise CheckpointError(f"{path} cannot be read") from error

    # What a disk or a system does in such a moment cannot be had here.
    monkeypatch.setattr("search.engine.trial.load_checkpoint", fail)
    told = _worker(assignment | {"from_epoch": 1}, shelf).step()
    assert json.loads(told["failure"])["kind"] == kind
    monkeypatch.undo()
    assert shelf.sizes(7) == before
    assert _worker(assignment | {"from_epoch": 1}, shelf).step()["metrics"]["epoch"] == 2


def test_a_store_that_does_not_answer_is_no_fault_of_the_trial(
    assignment: dict[str, Any],
) -> None:
    with s3_server.running() as server:
        shelf = StoreShelf(f"s3://{s3_server.BUCKET}", "small", attempts=1)
        worker = _worker(assignment, shelf)
        worker.step()
        server.stop()
        failures = [
            json.loads(worker.step()["failure"]),
            json.loads(_worker(assignment | {"from_epoch": 1}, shelf).step()["failure"]),
        ]
        for failure in failures:
            assert failure["kind"] == "checkpoints out of reach"
            assert "does not answer: see the network" in failure["reason"]
            assert "\n" not in failure["reason"]
