"""Every shelf behaves alike: a folder, an object store over HTTP, the relay through a real Ray."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server

from model.whole_file import write_whole
from search.drive.checkpoints import checkpoint_path
from search.drive.shelf import FolderShelf, Shelf
from search.machine.slots import worker_environment
from search.record.whole_file import is_disk_full

KINDS = ["folder", "store", pytest.param("relay", marks=pytest.mark.slow)]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def store() -> Iterator[s3_server.Server]:
    """Run an S3 server for the tests of this file."""
    with s3_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run Ray for the tests of this file."""
    from search.engine.local_ray import local_ray
    from search.engine.ray_root import ray_root

    before = dict(os.environ)
    os.environ |= worker_environment()
    try:
        with ray_root() as root, local_ray(root, cpus=1, object_store_bytes=100 << 20, died=print):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Shelf]:
    """Return a function that makes a shelf of a kind."""

    def make_one(kind: str, folder: Path = tmp_path) -> Shelf:
        if kind == "folder":
            return FolderShelf(folder / "trials")
        if kind == "store":
            from search.drive.store_shelf import StoreShelf

            request.getfixturevalue("store")
            shelf = StoreShelf(f"s3://{s3_server.BUCKET}/some/where", tmp_path.name, owner="me")
            shelf.claim()
            return shelf
        request.getfixturevalue("cluster")
        from search.engine.relay import RelayShelf

        return RelayShelf(folder / "trials")

    return make_one


@pytest.fixture(params=KINDS)
def shelf(request: pytest.FixtureRequest, make: Callable[..., Shelf]) -> Shelf:
    """Return a shelf of each kind, empty."""
    return make(request.param)


def put(shelf: Shelf, trial: int, *epochs: int, content: bytes = b"weights") -> None:
    for epoch in epochs:
        with shelf.writing(trial, epoch) as path:
            write_whole(path, content)


def get(shelf: Shelf, trial: int, epoch: int) -> bytes:
    with shelf.reading(trial, epoch) as path:
        return path.read_bytes()


class TestEveryShelf:
    def test_an_empty_one_holds_nothing(self, shelf: Shelf) -> None:
        assert (shelf.sizes(7), shelf.all_sizes()) == ({}, {})
        with pytest.raises(FileNotFoundError):
            get(shelf, 7, 1)
        shelf.discard(7, 1)
        shelf.tidy(7, best_epoch=1)

    def test_what_is_put_there_is_found_newest_first_and_read_again(self, shelf: Shelf) -> None:
        put(shelf, 7, 9, 10, 2)
        put(shelf, 7, 12345, content=b"x" * 3_000_000)
        put(shelf, 12, 1, content=b"")
        found = {12345: 3_000_000, 10: 7, 9: 7, 2: 7}
        assert list(shelf.sizes(7).items()) == list(found.items())
        assert shelf.all_sizes() == {7: found, 12: {1: 0}}
        assert list(shelf.all_sizes()[7]) == [12345, 10, 9, 2]
        assert (get(shelf, 7, 12345), get(shelf, 12, 1)) == (b"x" * 3_000_000, b"")
        assert shelf.name(7, 9) == f"{shelf.place}/t0007/e0009.safetensors"
        assert shelf.place in shelf.way

    def test_a_checkpoint_is_replaced_whole_or_not_at_all(self, shelf: Shelf) -> None:
        put(shelf, 7, 3, content=b"old")
        with pytest.raises(RuntimeError), shelf.writing(7, 3):
            raise RuntimeError("before it is written")
        assert (get(shelf, 7, 3), shelf.sizes(7)) == (b"old", {3: 3})
        put(shelf, 7, 3, content=b"newer")
        assert (get(shelf, 7, 3), shelf.sizes(7)) == (b"newer", {3: 5})

    def test_a_discarded_one_is_gone(self, shelf: Shelf) -> None:
        put(shelf, 7, 1, 2)
        shelf.discard(7, 2)
        assert shelf.sizes(7) == {1: 7}
        with pytest.raises(FileNotFoundError):
            get(shelf, 7, 2)

    def test_tidying_keeps_the_newest_two_and_the_best(self, shelf: Shelf) -> None:
        for epoch in range(1, 6):
            put(shelf, 7, epoch)
            shelf.tidy(7, best_epoch=min(epoch, 2))
            kept = {epoch, epoch - 1, min(epoch, 2)} - {0}
            assert list(shelf.sizes(7)) == sorted(kept, reverse=True)
        put(shelf, 8, 1)
        shelf.tidy(7, best_epoch=None)
        assert {trial: list(sizes) for trial, sizes in shelf.all_sizes().items()} == {
            7: [5, 4],
            8: [1],
        }

    def test_one_that_has_travelled_is_the_same(self, shelf: Shelf) -> None:
        import ray.cloudpickle

        put(shelf, 7, 1)
        pickled = ray.cloudpickle.dumps(shelf)
        assert b"s3cret" not in pickled
        there = pickle.loads(pickled)
        put(there, 7, 2)
        assert (list(shelf.sizes(7)), get(there, 7, 1)) == ([2, 1], b"weights")


@pytest.mark.parametrize("kind", ["folder", pytest.param("relay", marks=pytest.mark.slow)])
def test_a_full_disk_is_told_as_such_and_leaves_no_half_file(
    kind: str, make: Callable[..., Shelf], small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1_000_000)
    shelf = make(kind, disk)
    put(shelf, 7, 1, content=b"x" * 600_000)
    with pytest.raises(OSError) as full:
        put(shelf, 7, 2, content=b"x" * 600_000)
    assert is_disk_full(full.value)
    assert [path.name for path in (disk / "trials" / "t0007").iterdir()] == ["e0001.safetensors"]
    assert get(shelf, 7, 1) == b"x" * 600_000


@pytest.mark.slow
def test_the_relay_writes_the_files_that_a_folder_has_and_outlives_its_process(
    make: Callable[..., Shelf], tmp_path: Path
) -> None:
    import ray

    relay: Any = make("relay")
    put(relay, 7, 1, 2)
    folder = FolderShelf(tmp_path / "trials")
    assert relay.all_sizes() == folder.all_sizes() == {7: {2: 7, 1: 7}}
    assert relay.place == folder.place
    ray.kill(relay._clerk, no_restart=False)
    put(relay, 7, 3)
    assert get(folder, 7, 3) == b"weights"
    place = checkpoint_path(tmp_path / "trials" / "t0007", 4)
    place.mkdir()
    with pytest.raises(IsADirectoryError, match="on the driver's node"):
        get(relay, 7, 4)
    relay.discard(7, 4)
    assert not place.exists()
