"""Kinds of failure, from real exceptions and from what Ray really says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from data.images import DataError
from search.drive.failure import Failure, Failures, of_dead_worker, of_error
from search.drive.patience import Patience
from search.drive.shelf import ShelfError

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: TrialWorker
\tpid: 812
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some \
potential root causes. (1) The process is killed by SIGKILL by OOM killer."""
NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: TrialWorker
The actor died because its node has died. Node Id: 08ad. the actor's node was terminated."""
IMPORT = """The actor died because of an error raised in its creation task, ray::Trial.__init__()
  File "trial.py", line 11, in <module>
ModuleNotFoundError: No module named 'search'
"""


def _raised(action: object) -> Failure:
    try:
        assert callable(action)
        action()
    except Exception as error:
        return of_error(error)
    raise AssertionError("nothing was raised")


def test_no_memory_is_told_from_the_error_of_the_allocator() -> None:
    found = _raised(lambda: torch.empty(1 << 50, dtype=torch.uint8))
    assert found.kind == "out of memory"
    assert "\n" not in found.reason and len(found.reason) <= 200
    assert found.trace.startswith("Traceback")


def test_no_gpu_memory_is_told_by_the_type_of_the_error() -> None:
    # The only one that cannot be provoked without a GPU.
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert of_error(error).kind == "out of GPU memory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_by_its_number() -> None:
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    assert _raised(write).kind == "disk full"
    assert of_error(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))).kind == "disk full"
    assert of_error(PermissionError(errno.EACCES, "no")).kind == "bug"


def test_checkpoints_out_of_reach_halt_the_study_and_blame_no_trial() -> None:
    failure = of_error(ShelfError("cannot write to s3://bucket/small: it does not answer"))
    assert failure.kind == "checkpoints out of reach"
    answer = Failures(2).answer(failure, [], epochs=3)
    assert answer.action == "halt"
    assert answer.reason.startswith("checkpoints out of reach: ShelfError: cannot write to s3://")


def test_the_cause_of_an_error_counts_where_it_tells_more() -> None:
    def load() -> None:
        try:
            raise DataError("train-images is cut short")
        except DataError as error:
            raise RuntimeError("no batch") from error

    assert _raised(load).kind == "data unreadable"


def test_what_ray_says_of_a_dead_worker() -> None:
    def kind(said: str, memory: bool = False) -> str:
        return of_dead_worker(said, killed_for_memory=memory).kind

    assert kind(DIED) == "worker lost"
    assert kind(DIED, memory=True) == "out of memory"
    assert kind(NODE) == "node lost"
    assert kind("Task was killed due to the node running low on memory.") == "out of memory"
    assert kind("ray.exceptions.ObjectFreedError: Failed to retrieve") == "data unreadable"
    assert kind("") == "worker lost"
    full = IMPORT + "OSError: [Errno 28] No space left on device"
    assert kind(full) == "disk full"
    found = of_dead_worker(IMPORT, killed_for_memory=False)
    assert (found.kind, found.reason) == ("bug", "ModuleNotFoundError: No module named 'search'")


def test_the_same_bug_is_known_by_its_place_not_by_its_message() -> None:
    def bug(line: int, error: str) -> str:
        trace = f'  File "a.py", line 3, in fit\n  File "b.py", line {line}, in forward\n{error}'
        return Failure(kind="bug", reason=error, trace=trace).signature

    assert bug(7, "ValueError: size 3") == bug(7, "ValueError: size 5")
    assert bug(7, "ValueError: size 3") != bug(8, "ValueError: size 3")
    assert bug(7, "ValueError: size 3") != bug(7, "TypeError: size 3")


def test_patience_grows_with_the_network_and_with_what_was_seen() -> None:
    patience = Patience()
    assert patience.seconds(10) == 1800.0
    patience.saw(1_000, 10.0)
    assert patience.seconds(1_000) == 200.0
    assert patience.seconds(3_000) == 600.0
    assert patience.seconds(10) == 200.0  # no longer than the larger one
    patience.saw(10, 1.0)
    assert patience.seconds(10) == 120.0  # the least
    patience.saw(1_000, 4.0)
    assert patience.seconds(1_000) == 200.0  # the longest counts
    assert Patience(3.0).seconds(10**9) == 3.0
