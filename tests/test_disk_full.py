"""The disk fills up: in a search, in its record, in the report. Nothing breaks, and it goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_checkpoint
from search.config.config import StudyConfig
from search.drive.checkpoints import found
from search.record.study import Study, open_study
from search.run import new_study, reopen_images, search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parent.parent
SETTINGS: dict[str, Any] = {
    "study": "full",
    "max_epochs": 3,
    "data": {
        "source": "synthetic",
        "synthetic_train": 600,
        "synthetic_test": 100,
        "validation_images": 100,
    },
    "space": {
        "num_blocks": 1,
        "filters": {"choice": [4, 6]},
        "learning_rate": {"float": [0.01, 0.3], "log": True},
    },
    "baselines": [],
    "asha": {"grace_epochs": 1, "reduction_factor": 2, "min_competitors": 1},
    "budget": {"trials": 5},
    "resources": {"max_concurrent": 1},
    "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
}


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "search", *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Return the exit code and the lines that begin with `error`; there is no traceback."""
    _, told = process.communicate(timeout=300)
    assert "Traceback" not in told, told
    return process.returncode, [line for line in told.splitlines() if line.startswith("error")]


def fill(disk: Path, *, leave: int = 0) -> None:
    """Fill a disk but for so many bytes."""
    with (disk / f"fill-{time.monotonic_ns()}").open("wb", buffering=0) as file:
        try:
            free = shutil.disk_usage(disk).free
            os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
        except OSError:  # somebody was faster
            pass


def empty(disk: Path) -> None:
    for path in disk.glob("fill-*"):
        path.unlink()


def assert_whole(study: Study) -> None:
    """Look for anything that a full disk has left broken."""
    with sqlite3.connect(study.folder / "study.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    for trial in study.trials():
        folder = study.trial_folder(trial.number)
        for epoch, path in found(folder):
            training, _ = load_checkpoint(path, "cpu")
            assert training.epoch == epoch
        assert not list(folder.glob(".*"))
    assert not list(study.folder.glob(".*.tmp"))


def course(study: Study) -> list[Any]:
    """Return how every trial went, without what depends on the clock."""
    return [
        (t.configuration, t.outcome, t.reason, [(e.epoch, e.val_accuracy) for e in t.epochs])
        for t in study.trials()
    ]


def test_a_full_disk_of_checkpoints_halts_the_study_which_goes_on_as_if_nothing_had_been(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    config = StudyConfig.model_validate(SETTINGS)
    calm, images = new_study(config, tmp_path / "calm", "quiet")
    assert search(calm, images, "quiet")
    study, _ = new_study(config, tmp_path, "quiet")
    disk = small_disk(2_000_000)
    (study.folder / "trials").rmdir()
    (study.folder / "trials").symlink_to(disk)
    fill(disk, leave=150_000)
    assert not search(study, images, "quiet")
    assert study.state == "stopped"
    assert study.noted("halted").startswith("disk full: ")
    (failed,) = [row for row in study.record.attempts() if row["failure"] is not None]
    assert (failed["failure"], failed["outcome"]) == ("disk full", "stopped")
    assert study.trial(failed["trial"]).outcome == "running"  # it was not the trial's fault
    assert any(trial.epochs for trial in study.trials())
    assert_whole(study)
    empty(disk)
    again = open_study(study.folder)
    assert search(again, reopen_images(again), "quiet")
    assert again.state == "searched"
    assert not again.noted("halted")
    assert course(again) == course(calm)
    told = [(e.trial, e.epoch) for e in again.record.events() if e.kind == "epoch"]
    assert len(told) == len(set(told))  # none was trained twice
    assert_whole(again)


def test_a_disk_that_is_full_of_other_things_stops_the_study_with_one_line_and_it_is_resumed(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(40_000_000)
    file = tmp_path / "full.yaml"
    settings = SETTINGS | {"resources": {"max_concurrent": 2}, "budget": {"trials": 8}}
    file.write_text(json.dumps(settings))  # is YAML, too
    process = command("run", str(file), "--runs", str(disk))
    folder = disk / "full"
    while process.poll() is None and not list(folder.glob("trials/t0001/e*.safetensors")):
        time.sleep(0.05)
    while process.poll() is None:
        fill(disk)
        time.sleep(0.2)
    code, errors = ended(process)
    assert code == 2
    (error,) = errors
    assert "disk" in error
    assert "free some space" in error
    assert "resume" in error
    empty(disk)
    study = open_study(folder)
    before = {(row.trial, row.epoch): row.val_accuracy for row in study.record.epochs()}
    assert before
    assert_whole(study)
    assert ended(command("resume", "full", "--runs", str(disk))) == (0, [])
    study = open_study(folder)
    after = {(row.trial, row.epoch): row.val_accuracy for row in study.record.epochs()}
    assert after.items() >= before.items()
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    assert (result["trials"]["total"], result["trials"]["failed"]) == (8, 0)
    assert_whole(study)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished study."""
    runs = tmp_path_factory.mktemp("runs")
    file = runs / "full.yaml"
    settings = SETTINGS | {
        "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": True}
    }
    file.write_text(json.dumps(settings))
    assert ended(command("run", str(file), "--runs", str(runs))) == (0, [])
    return runs / "full"


@pytest.mark.parametrize("word", ["report", "retrain", "export"])
def test_what_cannot_be_written_is_said_in_one_line_and_what_was_there_stays(
    word: str, finished: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(40_000_000)
    folder = disk / "full"
    shutil.copytree(finished, folder)
    fixed = [path for name in ("final", "export") for path in sorted((folder / name).rglob("*"))]
    fixed += [folder / "report.html", folder / "report.md", folder / "config.yaml"]
    before = {path: path.read_bytes() for path in fixed if path.is_file()}
    fill(disk, leave=100_000)  # the record can be written, and what is small
    code, errors = ended(command(word, "full", "--runs", str(disk)))
    assert code == 2
    (error,) = errors
    assert re.fullmatch(r"error: the disk.* is full: .*free some space.*", error)
    for path, content in before.items():
        assert path.read_bytes() == content, path
    json.loads((folder / "result.json").read_text())
    assert not list(folder.glob(".*.tmp"))
    empty(disk)
    assert ended(command(word, "full", "--runs", str(disk))) == (0, [])
    assert_whole(open_study(folder))
    assert (folder / "report.html").stat().st_size > 100_000
