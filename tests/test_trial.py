"""A worker, in this process: what it tells of a trial, and what it goes on from."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import CheckpointError
from model.config import Configuration, NetworkConfig, TrainingConfig
from search.config.config import DataSection
from search.drive.checkpoints import found
from search.engine.bridge import as_config
from search.engine.trial import TrialWorker
from search.prune.assignment import Assignment
from search.record.dataset import load_images


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
            folder=tmp_path / "trial",
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
    undisturbed = _worker(assignment | {"folder": assignment["folder"] + "-other"})
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


def test_an_error_in_the_worker_is_reported_not_raised(assignment: dict[str, Any]) -> None:
    Path(assignment["folder"]).touch()
    report = _worker(assignment).step()
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
    assignment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    _worker(assignment).step()
    (before,) = found(Path(assignment["folder"]))

    def fail(path: Path, device: object) -> None:
        raise CheckpointError(f"{path} cannot be read") from error

    # What a disk or a system does in such a moment cannot be had here.
    monkeypatch.setattr("search.engine.trial.load_checkpoint", fail)
    told = _worker(assignment | {"from_epoch": 1}).step()
    assert json.loads(told["failure"])["kind"] == kind
    monkeypatch.undo()
    assert found(Path(assignment["folder"])) == [before]
    assert _worker(assignment | {"from_epoch": 1}).step()["metrics"]["epoch"] == 2
