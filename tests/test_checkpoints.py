"""Checkpoints of a trial: which are found, which are kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.whole_file import write_whole
from search.drive.checkpoints import checkpoint_path, discard, found, parts, tidy

HEX = "0123456789abcdef0123456789abcdef"


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        checkpoint_path(folder, epoch).write_bytes(b"weights")


def epochs(folder: Path) -> list[int]:
    return [epoch for epoch, _ in found(folder)]


def unfinished(folder: Path, epoch: int, *, age: float) -> Path:
    path = folder / f".e{epoch:04d}.safetensors.{HEX}.part"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_checkpoints_are_found_newest_first_and_other_names_are_not(tmp_path: Path) -> None:
    write(tmp_path, 9, 10, 2, 12345)
    unfinished(tmp_path, 11, age=0)
    for stranger in (
        "e3.safetensors",
        "e00004.safetensors",  # never written so
        "xe0005.safetensors",
        "e0006.safetensors.bak",
        "e0007.part",
        "last.safetensors",
        "events.out.tfevents.1",
    ):
        (tmp_path / stranger).write_bytes(b"?")
    assert found(tmp_path) == [(n, checkpoint_path(tmp_path, n)) for n in (12345, 10, 9, 2)]
    assert checkpoint_path(tmp_path, 2).name == "e0002.safetensors"


def test_a_folder_that_is_not_there_holds_none_and_a_directory_of_the_name_is_one(
    tmp_path: Path,
) -> None:
    assert found(tmp_path / "t0000") == []
    checkpoint_path(tmp_path, 3).mkdir()
    assert epochs(tmp_path) == [3]  # the reader says that it cannot be read


@given(there=st.sets(st.integers(1, 12), max_size=8), best=st.none() | st.integers(1, 12))
def test_tidy_keeps_the_newest_two_and_the_best(
    tmp_path_factory: pytest.TempPathFactory, there: set[int], best: int | None
) -> None:
    folder = tmp_path_factory.mktemp("trial")
    write(folder, *there)
    tidy(folder, best_epoch=best)
    assert set(epochs(folder)) == {*sorted(there)[-2:]} | ({best} & there if best else set())


def test_tidy_removes_old_unfinished_files_and_leaves_young_and_foreign_ones(
    tmp_path: Path,
) -> None:
    write(tmp_path, 1, 2)
    old, young = unfinished(tmp_path, 1, age=3600), unfinished(tmp_path, 2, age=1)
    foreign = tmp_path / ".e-notes.part"
    foreign.write_text("mine")
    os.utime(foreign, (0, 0))
    assert parts(tmp_path) == [old, young]
    tidy(tmp_path, best_epoch=None)
    assert not old.exists()
    assert young.exists()  # perhaps of a worker that still writes
    assert foreign.exists()
    assert epochs(tmp_path) == [2, 1]


def test_nothing_is_deleted_before_the_newest_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, 2)
    there: list[list[int]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), tmp_path.stat()):
            there.append(epochs(tmp_path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)  # no power is cut here
    write_whole(checkpoint_path(tmp_path, 3), b"weights")
    tidy(tmp_path, best_epoch=3)
    assert (there, epochs(tmp_path)) == ([[3, 2, 1]], [3, 2])


def test_a_directory_in_the_place_of_a_checkpoint_is_discarded_and_a_missing_one_is_no_error(
    tmp_path: Path,
) -> None:
    place = checkpoint_path(tmp_path, 3)
    (place / "inner").mkdir(parents=True)
    discard(place)
    discard(place)
    assert not place.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place.symlink_to(elsewhere)
    discard(place)
    assert elsewhere.is_dir()
    assert not place.is_symlink()
