"""Keeper, gc and doctor where checkpoints lie in a store: the same choices, and few requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
from sick_study import kinds, said, write_checkpoints
from typer.testing import CliRunner

from model.whole_file import write_whole
from search.care.doctor import examine
from search.care.gc import collect, collect_all
from search.cli import app
from search.drive.keeper import Keeper
from search.drive.shelf import Shelf, ShelfError, claim_shelf, shelf_of
from search.drive.store_shelf import StoreShelf
from search.record.study import Study

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("elsewhere")]
Kept = dict[int, list[int]]


@pytest.fixture(scope="module")
def server() -> Iterator[s3_server.Server]:
    """Run an S3 server for the tests of this file."""
    with s3_server.running() as running:
        yield running


@pytest.fixture
def url(server: s3_server.Server, tmp_path: Path) -> str:
    """Return an address of which nothing is below yet."""
    return f"s3://{s3_server.BUCKET}/{tmp_path.name}"


def kept(shelf: Shelf) -> Kept:
    return {trial: list(sizes) for trial, sizes in shelf.all_sizes().items()}


@pytest.fixture
def begin(
    make_study: Callable[..., Study],
    make_driver: Callable[..., Any],
    hand_out: Callable[..., Any],
    train: Callable[..., list[str]],
    url: str,
) -> Callable[..., Any]:
    """Return a function that begins a study in the store.

    It returns the study, its keeper, what that has said, and what trains the next trial as a worker
    would: an epoch is written, then tidied, then told.
    """

    def make(**changes: Any) -> Any:
        changes["checkpoints"] = {"url": url, **changes.get("checkpoints", {})}
        study = make_study(**changes)
        claim_shelf(study)
        heard: list[str] = []
        keeper = Keeper(study, say=heard.append)
        driver = make_driver(study, slots=2, observers=(keeper,))
        worker = shelf_of(study)

        def run(scores: list[float]) -> int:
            trial = int(hand_out(driver).trial)
            best = 0
            for epoch, score in enumerate(scores, start=1):
                with worker.writing(trial, epoch) as path:
                    write_whole(path, b"w" * 1000)
                best = epoch if not best or score >= scores[best - 1] else best
                worker.tidy(trial, best_epoch=best)
                train(driver, trial, {epoch: score})
            return trial

        return study, keeper, heard, run

    return make


def test_what_is_kept_is_what_a_folder_keeps_and_nothing_is_listed_meanwhile(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, keeper, heard, run = begin(
        asha={"enabled": False}, max_epochs=3, checkpoints={"keep_best": 2}
    )
    with monkeypatch.context() as patch:
        patch.setattr(StoreShelf, "_listed", lambda *_: pytest.fail("the store was listed"))
        for scores in ([0.1, 0.5, 0.4], [0.2, 0.3, 0.6], [0.1, 0.1, 0.1], [0.7, 0.9, 0.8]):
            run(scores)
        keeper._wait_for_deletions()
    assert kept(shelf_of(study)) == {1: [3], 3: [2]}
    keeper.sweep()
    assert kept(shelf_of(study)) == {1: [3], 3: [2]}
    assert heard == []


def test_a_running_trial_keeps_three_and_a_waiting_one_its_last_and_its_best(
    begin: Callable[..., Any],
) -> None:
    rungs = {"form": "promotion", "grace_epochs": 6, "min_competitors": 2}
    study, keeper, _, run = begin(asha=rungs, max_epochs=9)
    run([0.1, 0.5, 0.2, 0.3, 0.3])
    keeper._wait_for_deletions()
    assert kept(shelf_of(study)) == {0: [5, 4, 2]}
    run([0.1, 0.2, 0.6, 0.2, 0.2, 0.3])
    keeper._wait_for_deletions()
    assert kept(shelf_of(study)) == {0: [5, 4, 2], 1: [6, 3]}


def test_the_quota_holds_in_a_store_too(begin: Callable[..., Any]) -> None:
    rungs = {"form": "promotion", "grace_epochs": 3, "min_competitors": 2}
    study, keeper, heard, run = begin(asha=rungs, checkpoints={"max_gb": 1e-6})
    run([0.3, 0.5, 0.4])
    run([0.4, 0.6, 0.5])
    keeper.sweep()
    assert kept(shelf_of(study)) == {}
    assert any("those of the worst trials are deleted" in line for line in heard)


def test_an_outage_is_said_once_and_the_search_goes_on(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, keeper, heard, run = begin(asha={"enabled": False}, max_epochs=3)

    def away(*_: Any, **__: Any) -> Any:
        raise ShelfError("the store does not answer")

    with monkeypatch.context() as patch:  # a server that is away takes half a minute to give up
        patch.setattr(keeper._shelf, "discard", away)
        for _ in range(5):
            run([0.1, 0.2, 0.3])
        keeper._wait_for_deletions()
        patch.setattr(keeper._shelf, "all_sizes", away)
        keeper.sweep()
    (told,) = heard
    assert told.endswith("safetensors cannot be deleted: the store does not answer")
    keeper.sweep()
    assert len(kept(shelf_of(study))) == 3


def test_gc_frees_objects_that_nobody_needs_and_those_of_no_trial(
    begin: Callable[..., Any], tmp_path: Path
) -> None:
    study, _, _, run = begin(asha={"enabled": False}, max_epochs=3, checkpoints={"keep_best": 1})
    run([0.1, 0.5, 0.4])
    run([0.2, 0.3, 0.6])
    shelf = shelf_of(study)
    for trial, epoch in ((0, 1), (99, 1)):
        with shelf.writing(trial, epoch) as path:
            write_whole(path, b"w" * 1000)
    dry = collect(study.folder, keep=None, dry_run=True)
    assert 99 in kept(shelf)
    freed = collect(study.folder, keep=None, dry_run=False)
    assert freed == dry
    assert {waste.kind for waste in freed.waste} == {"checkpoints", "of no trial"}
    assert f"{shelf.place}/t0099/e0001.safetensors" in {waste.path for waste in freed.waste}
    assert kept(shelf) == {1: [3]}
    assert collect(study.folder, keep=None, dry_run=False).waste == ()


def test_a_store_that_does_not_answer_is_one_line_to_gc_and_doctor(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, _, _, run = begin(asha={"enabled": False}, max_epochs=3)
    run([0.1, 0.5])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setattr("search.drive.store_shelf.ATTEMPTS", 1)
    monkeypatch.setattr(StoreShelf.__init__, "__kwdefaults__", {"owner": "", "attempts": 1})
    (skipped,) = collect_all(tmp_path, keep=None, dry_run=False)
    assert "does not answer: see the network" in skipped.skipped
    answer = CliRunner().invoke(app, ["gc", "small", "--runs", str(tmp_path), "--json"])
    assert isinstance(answer.exception, ShelfError)  # `main` makes a line of it
    seen = examine(study.folder, check=True)
    assert "does not answer: see the network" in said(seen)
    assert "cannot be mended" in kinds(seen)


def test_the_doctor_finds_and_mends_damaged_objects(
    patients: dict[str, Path], url: str, tmp_path: Path
) -> None:
    from search.record.study import open_study

    folder = tmp_path / "sick"
    shutil.copytree(patients["stopped"], folder)
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("  url: null", f"  url: {url}"))
    study = open_study(folder)
    assert study.config.checkpoints.url == url
    claim_shelf(study)
    shelf = shelf_of(study)
    for number, epochs in ((12, (3, 4, 5)), (4, (1, 3))):
        write_checkpoints(study, number, epochs)
        for epoch in epochs:
            source = study.trial_folder(number) / f"e{epoch:04d}.safetensors"
            with shelf.writing(number, epoch) as place:
                write_whole(place, source.read_bytes())
            source.unlink()
    assert examine(folder, check=True).findings == ()
    with shelf.writing(12, 5) as place:
        write_whole(place, b"half")
    seen = examine(folder, check=False)
    assert f"{shelf.name(12, 5)} is damaged" in said(seen)
    assert seen.findings[0].how == "it is removed, and t0012 goes on from epoch 4"
    assert kinds(seen) == {"mended"}
    assert kept(shelf) == {4: [3, 1], 12: [4, 3]}
    assert examine(folder, check=True).findings == ()
    assert json.loads(json.dumps(seen.to_dict()))
