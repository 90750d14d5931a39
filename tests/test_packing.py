"""A study is packed while it is searched, and unpacked whole or not at all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from search.drive.checkpoints import checkpoint_path
from search.drive.driver import Driver
from search.engine.packing import pack, unpack
from search.record.study import Study, StudyError, open_study

Start = Callable[..., tuple[Study, Driver]]
Train = Callable[[Driver, int, dict[int, float]], list[str]]


@pytest.fixture
def study(start_search: Start, train: Train) -> Study:
    """Return a study whose driver is at work, with two checkpoints of one trial."""
    study, driver = start_search(slots=2)
    train(driver, 0, {1: 0.5})
    for epoch in (1, 2):
        checkpoint_path(study.trial_folder(0), epoch).write_bytes(b"weights")
    (study.trial_folder(0) / "events.out.tfevents.1").write_bytes(b"curve")
    (study.folder / ".lock").write_text("process 1 on head")
    (study.folder / "report.html").write_text("the report")
    return study


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_what_is_needed_at_home_arrives_and_opens_there(study: Study, tmp_path: Path) -> None:
    pack(study.folder, tmp_path / "parcel", checkpoints=False)
    home = tmp_path / "home" / study.name
    home.mkdir(parents=True)
    unpack(tmp_path / "parcel", home)
    assert {"config.yaml", "study.db", "report.html"} <= names(home)
    assert "trials/t0000/events.out.tfevents.1" in names(home)
    assert not [name for name in names(home) if name.endswith(".safetensors") or ".lock" in name]
    there, here = study.trials(), open_study(home).trials()
    assert [(t.name, t.value, t.epochs) for t in here] == [
        (t.name, t.value, t.epochs) for t in there
    ]
    assert len(here) == 2 and here[0].value == 0.5


def test_checkpoints_come_where_they_are_asked_for(study: Study, tmp_path: Path) -> None:
    pack(study.folder, tmp_path / "parcel", checkpoints=True)
    unpack(tmp_path / "parcel", tmp_path / "home")
    assert checkpoint_path(tmp_path / "home" / "trials" / "t0000", 2).read_bytes() == b"weights"


def test_the_driver_goes_on_while_its_study_is_packed(
    start_search: Start, train: Train, tmp_path: Path
) -> None:
    study, driver = start_search(slots=2)
    pack(study.folder, tmp_path / "first", checkpoints=False)
    train(driver, 0, {1: 0.5})
    pack(study.folder, tmp_path / "second", checkpoints=False)
    values = []
    for name in ("first", "second"):
        unpack(tmp_path / name, tmp_path / "home" / name)
        values.append(open_study(tmp_path / "home" / name).trials()[0].value)
    assert values == [None, 0.5]


@pytest.mark.parametrize("absolute", [False, True])
def test_nothing_outside_the_folder_is_written(absolute: bool, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    name = str(outside) if absolute else "../outside"
    with tarfile.open(tmp_path / "parcel", "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"evil"))
    home = tmp_path / "home"
    home.mkdir()
    if absolute:  # taken for a name inside
        unpack(tmp_path / "parcel", home)
        assert names(home) == {name[1:]}
    else:
        with pytest.raises(StudyError, match="no study"):
            unpack(tmp_path / "parcel", home)
    assert not outside.exists()


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_half_a_parcel_is_refused_in_one_line(study: Study, tmp_path: Path, cut: int) -> None:
    pack(study.folder, tmp_path / "parcel", checkpoints=False)
    whole = (tmp_path / "parcel").read_bytes()
    (tmp_path / "parcel").write_bytes(whole[:cut])
    with pytest.raises(StudyError, match="what came is no study") as refused:
        unpack(tmp_path / "parcel", tmp_path / "home")
    assert "\n" not in str(refused.value)
