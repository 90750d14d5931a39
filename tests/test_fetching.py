"""A study that came home is a copy: replaced by a newer one, unless it was worked on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from search.care.gc import collect
from search.drive.driver import Driver
from search.drive.shelf import FolderShelf, ShelfError, claim_shelf, shelf_of
from search.engine.fetching import fetch
from search.engine.packing import Parcel, pack
from search.record.study import Study, StudyError, open_study

Start = Callable[..., tuple[Study, Driver]]
Train = Callable[[Driver, int, dict[int, float]], list[str]]


class Head:
    """What a cluster does for `fetch`: the boundary that tests/cluster crosses for real."""

    address = "http://me:secret@head:8265"

    def __init__(self, folder: Path, place: Path) -> None:
        """Give away the study in `folder`, by way of `place`."""
        self._folder, self._parcel = folder, place / "parcel"
        self.cut = 0

    @contextmanager
    def running(self, words: Sequence[str], runs: str | None) -> Iterator[Iterator[str]]:
        """Pack the study, as `pack` does there."""
        pack(self._folder, self._parcel, checkpoints="--checkpoints" in words)
        content = self._parcel.read_bytes()
        told = Parcel(node="n", name="p", size=len(content), sha256=sha256(content).hexdigest())
        yield iter(
            ["a line\n", json.dumps(asdict(told))[:20], json.dumps(asdict(told))[20:] + "\n"]
        )

    def download(self, node: str, name: str) -> Iterator[bytes]:
        """Give the parcel, or a part of it."""
        content = self._parcel.read_bytes()
        yield content[: len(content) - self.cut]


@pytest.fixture
def there(start_search: Start) -> tuple[Study, Driver]:
    """Return a study on the cluster, that is being searched."""
    return start_search(slots=2, checkpoints={"url": "s3://bucket/prefix"})


@pytest.fixture
def head(there: tuple[Study, Driver], tmp_path: Path) -> Head:
    """Return the cluster that has it."""
    (tmp_path / "head").mkdir()
    return Head(there[0].folder, tmp_path / "head")


def bring(head: Head, home: Path) -> Study:
    """Fetch the study."""
    jobs: object = head
    folder = fetch(jobs, "small", runs=None, to=home, checkpoints=False, say=lambda line: None)  # type: ignore[arg-type]
    return open_study(folder)


def test_a_newer_copy_takes_the_place_of_an_older_one(
    there: tuple[Study, Driver], head: Head, train: Train, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assert bring(head, home).trials()[0].value is None
    train(there[1], 0, {1: 0.5})
    assert bring(head, home).trials()[0].value == 0.5
    assert [path.name for path in home.iterdir()] == ["small"]
    said = (home / "small" / "fetched.json").read_text()
    assert "http://head:8265" in said and "secret" not in said


def test_what_was_done_at_home_is_not_thrown_away(head: Head, tmp_path: Path) -> None:
    copy = bring(head, tmp_path / "home")
    copy.sessions.start("retrain", host="laptop", pid=1)
    with pytest.raises(StudyError, match="was worked on here since it was fetched"):
        bring(head, tmp_path / "home")
    assert len(open_study(copy.folder).sessions.all()) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["small"]


def test_a_study_of_this_machine_is_not_replaced(head: Head, tmp_path: Path) -> None:
    (tmp_path / "home" / "small").mkdir(parents=True)
    with pytest.raises(StudyError, match="did not come from a cluster"):
        bring(head, tmp_path / "home")


def test_what_comes_in_part_is_not_taken(head: Head, tmp_path: Path) -> None:
    head.cut = 1
    with pytest.raises(StudyError, match="try again"):
        bring(head, tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


def test_a_copy_leaves_the_store_of_the_cluster_alone(head: Head, tmp_path: Path) -> None:
    copy = bring(head, tmp_path / "home")
    # No store answers here: whoever asked it would fail.
    assert isinstance(shelf_of(copy), FolderShelf)
    assert collect(copy.folder, keep=None, dry_run=False).waste == ()
    with pytest.raises(ShelfError, match="was fetched from a cluster"):
        claim_shelf(copy)
    shutil.rmtree(copy.folder)


def test_a_folder_is_not_fetched_as_if_it_were_a_name(head: Head, tmp_path: Path) -> None:
    jobs: object = head
    with pytest.raises(StudyError, match="is a folder"):
        fetch(jobs, "../small", runs=None, to=tmp_path, checkpoints=False, say=print)  # type: ignore[arg-type]
