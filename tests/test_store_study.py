"""A whole study with its checkpoints on an S3 server: a worker is killed, the driver is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server

from search.drive.shelf import shelf_of
from search.machine.slots import CHECKOUT
from search.record.study import Study, best_of, open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS: dict[str, Any] = {
    "study": "far",
    "max_epochs": 6,
    "data": {
        "source": "synthetic",
        "synthetic_train": 6000,
        "synthetic_test": 200,
        "validation_images": 600,
    },
    "space": {
        "num_blocks": 1,
        "filters": {"choice": [6, 8]},
        "learning_rate": {"float": [0.01, 0.3], "log": True},
    },
    "baselines": [],
    "asha": {"enabled": False},
    "budget": {"trials": 5},
    "resources": {"max_concurrent": 2},
    "checkpoints": {"url": f"s3://{s3_server.BUCKET}/team", "keep_best": 2},
    "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
}


@pytest.fixture(scope="module")
def server() -> Iterator[s3_server.Server]:
    """Run an S3 server for the tests of this file."""
    with s3_server.running() as running:
        yield running


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "search", *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], folder: Path, seen: Callable[[Study], Any]) -> Any:
    """Return what is seen in the record of a study that is being searched."""
    study = None
    while process.poll() is None:
        if study is None and (folder / "config.yaml").exists():
            study = open_study(folder)
        if study is not None and (found := seen(study)):
            return found
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def running_worker(study: Study) -> tuple[int, int] | None:
    """Return a trial that has trained an epoch and not yet the last one, and its process."""
    for row in study.record.attempts():
        if row["ended_at"] is None and row["pid"] is not None:
            epochs = study.record.epochs(row["trial"])
            if 1 <= len(epochs) <= 3:
                return row["trial"], row["pid"]
    return None


def test_a_study_goes_on_from_the_store_and_leaves_there_what_is_kept(
    server: s3_server.Server, tmp_path: Path
) -> None:
    file, folder = tmp_path / "far.yaml", tmp_path / "far"
    file.write_text(json.dumps(SETTINGS))  # is YAML, too
    process = command("run", str(file), "--runs", str(tmp_path))
    killed, pid = wait_for(process, folder, running_worker)
    os.kill(pid, signal.SIGKILL)
    wait_for(process, folder, lambda s: s.record.failures(killed))
    wait_for(process, folder, lambda s: len(s.record.attempts()) > 3 and running_worker(s))
    process.send_signal(signal.SIGTERM)
    said = "".join(process.communicate(timeout=120))
    assert "s3cret" not in said
    stopped = open_study(folder)
    assert stopped.state == "stopped"
    open_ones = [trial for trial in stopped.trials() if trial.outcome == "running"]
    assert any(trial.epochs for trial in open_ones)
    for trial in open_ones:
        epochs = [row.epoch for row in trial.epochs]
        assert list(shelf_of(stopped).sizes(trial.number))[:1] == epochs[-1:]

    again = command("resume", "far", "--runs", str(tmp_path))
    told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    study = open_study(folder)
    trials = study.trials()
    assert [trial.outcome for trial in trials] == ["complete"] * 5
    rows = study.record.attempts()
    lost = [row for row in rows if row["failure"] == "worker lost"]
    assert [row["trial"] for row in lost] == [killed]
    later = [row for row in rows if row["trial"] == killed][1:]
    assert later[0]["from_epoch"] >= 1
    for trial in trials:  # none was trained twice, none began again
        assert [row.epoch for row in trial.epochs] == list(range(1, 7))
        assert "remark" not in trial.reason and "first epoch" not in trial.reason
    ranked = sorted(trials, key=lambda trial: trial.merit)
    best = best_of(trials)
    assert best == ranked[0]
    kept = {trial.number: [trial.best_epoch] for trial in ranked[:2]}
    there = shelf_of(study).all_sizes()
    assert {number: list(sizes) for number, sizes in there.items()} == kept
    assert not list(folder.rglob("e0*.safetensors"))
    assert (
        study.noted("shelf")
        == f"checkpoints are written to s3://{s3_server.BUCKET}/team/far/trials"
    )
    for path in folder.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_a_study_is_not_begun_where_its_store_cannot_be_used(
    server: s3_server.Server, tmp_path: Path
) -> None:
    file = tmp_path / "far.yaml"
    settings = SETTINGS | {"study": "none", "checkpoints": {"url": "s3://nowhere/team"}}
    file.write_text(json.dumps(settings))
    process = command("run", str(file), "--runs", str(tmp_path))
    _, told = process.communicate(timeout=120)
    errors = [line for line in told.splitlines() if line.startswith("error")]
    expected = "error: cannot write to s3://nowhere/team/none: there is no such bucket: make it, or"
    assert (process.returncode, len(errors)) == (2, 1)
    assert errors[0].startswith(expected)
    assert not (tmp_path / "none").exists()
