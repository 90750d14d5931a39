"""`gc` frees what no study needs, says what, and touches nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.care.gc import collect, collect_all
from search.cli import app
from search.config.config import StudyConfig
from search.drive.checkpoints import checkpoint_path, found
from search.engine.ray_root import PLACE
from search.record.lock import hold
from search.record.study import Study, StudyError, create, open_study

Make = Callable[..., Study]
CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that is looked through for what killed drivers left: not the real one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv(PLACE, str(folder))
    return folder


def files(folder: Path) -> dict[str, int]:
    """Return every file below a folder but the database's own and the lock."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("study.db", ".lock"))
    }


@pytest.fixture
def make(
    tmp_path: Path,
    make_config: Callable[..., StudyConfig],
    make_driver: Callable[..., Any],
    hand_out: Callable[..., Any],
    train: Callable[..., list[str]],
) -> Make:
    """Return a function that makes a study of three complete trials, one failed, one in flight."""

    def make_one(name: str = "one", **changes: Any) -> Study:
        config = make_config(max_epochs=3, asha={"enabled": False}, **changes)
        study = create(config, tmp_path / "runs" / name, facts={}, environment={})
        driver = make_driver(study)
        for scores in ([0.1, 0.5, 0.4], [0.3, 0.2, 0.7], [0.2, 0.2, 0.1], [0.9, float("nan")]):
            trial = hand_out(driver).trial
            train(driver, trial, dict(enumerate(scores, start=1)))
        trial = hand_out(driver).trial
        train(driver, trial, {1: 0.3})
        for number in range(5):
            for epoch in (1, 2, 3) if number < 4 else (1,):
                checkpoint_path(study.trial_folder(number), epoch).write_bytes(b"w" * 1000)
        return study

    return make_one


@pytest.fixture
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def kept(study: Study) -> dict[int, list[int]]:
    return {n: [epoch for epoch, _ in found(study.trial_folder(n))] for n in range(5)}


def test_only_what_is_not_needed_is_freed(make: Make, dead: int) -> None:
    study = make()
    needless = {
        f"trials/t0000/.e0002.safetensors.{'a' * 32}.part": 10,
        "trials/t0099/e0001.safetensors": 20,
        "trials/t0099/curves/events": 30,
        "final.part/winner-s0/model.safetensors": 40,
        "export.part/model.onnx": 50,
        f".export.part.{'b' * 32}.part/model.pt2": 50,
        f".report.html.{dead}.tmp": 60,
    }
    precious = {
        "trials/t0000/events.out.tfevents.1": 10,
        "trials/t0002/notes.txt": 10,
        "trials/t-shirts/e0001.safetensors": 10,
        "trials/t0098": 10,  # no folder: not of ours
        "final/winner-s0/model.safetensors": 10,
        f".report.html.{os.getpid()}.tmp": 10,  # being written
        "report.html": 10,
    }
    for name, size in (needless | precious).items():
        (study.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (study.folder / name).write_bytes(b"x" * size)
    before = files(study.folder)
    said = collect(study.folder, keep=None, dry_run=True)
    assert files(study.folder) == before
    freed = collect(study.folder, keep=None, dry_run=False)
    assert freed == said
    after = files(study.folder)
    assert kept(study) == {0: [2], 1: [3], 2: [2], 3: [], 4: [1]}
    assert freed.size == sum(before.values()) - sum(after.values())
    assert freed.size == sum(needless.values()) + 9 * 1000
    assert not after.keys() & needless.keys()
    assert after.items() >= precious.items()
    assert not (study.folder / "trials" / "t0099").exists()
    assert collect(study.folder, keep=None, dry_run=False).waste == ()
    assert len(open_study(study.folder).trials()) == 5


def test_fewer_trials_keep_a_network_where_it_is_asked_for(make: Make) -> None:
    study = make()
    collect(study.folder, keep=1, dry_run=False)
    assert kept(study) == {0: [], 1: [3], 2: [], 3: [], 4: [1]}
    collect(study.folder, keep=0, dry_run=False)
    assert kept(study) == {0: [], 1: [], 2: [], 3: [], 4: [1]}


def test_a_study_that_is_worked_on_or_cannot_be_read_is_left_and_the_others_are_freed(
    make: Make, tmp_path: Path
) -> None:
    studies = [make(name) for name in ("a", "b")]
    broken = tmp_path / "runs" / "c"
    broken.mkdir()
    (broken / "config.yaml").write_text("study: c\n")
    (tmp_path / "runs" / "exported").mkdir()  # no study
    before = files(studies[0].folder)
    with hold(studies[0]):
        with pytest.raises(StudyError, match=r"a is being worked on by"):
            collect(studies[0].folder, keep=None, dry_run=False)
        a, b, c = collect_all(tmp_path / "runs", keep=None, dry_run=False)
    assert (a.name, a.waste, a.size) == ("a", (), 0)
    assert "a is being worked on by" in a.skipped
    assert files(studies[0].folder) == before
    assert (b.name, b.skipped, b.size) == ("b", "", 9000)
    assert "holds no study" in c.skipped
    assert files(broken) == {"config.yaml": 9}


def test_the_folder_of_a_killed_plan_is_freed_once_it_is_old(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, age in ((".plan-old", 7200), (".plan-new", 0)):
        (runs / name).mkdir(parents=True)
        (runs / name / "slot-0.safetensors").write_bytes(b"x" * 10)
        os.utime(runs / name, (time.time() - age,) * 2)
    (plans,) = collect_all(runs, keep=None, dry_run=True)
    assert (plans.size, (runs / ".plan-old").exists()) == (10, True)
    collect_all(runs, keep=None, dry_run=False)
    assert [path.name for path in runs.iterdir()] == [".plan-new"]
    assert collect_all(runs, keep=None, dry_run=False) == []


def test_the_temporary_files_of_killed_drivers_are_freed(tmp_path: Path, temporary: Path) -> None:
    killed, alive = temporary / "fashion-search-a1b2c3", temporary / "fashion-search-d4e5f6"
    for root in (killed, alive):
        (root / "session").mkdir(parents=True)
        (root / "session" / "log").write_bytes(b"x" * 10)
        (root / "driver.lock").touch()
    with (alive / "driver.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as its driver does
        (left,) = collect_all(tmp_path, keep=None, dry_run=True)
        assert (left.size, [waste.path for waste in left.waste]) == (10, [str(killed)])
        assert killed.exists()
        assert collect_all(tmp_path, keep=None, dry_run=False) == [left]
        assert list(temporary.iterdir()) == [alive]
        assert collect_all(tmp_path, keep=None, dry_run=False) == []


def test_the_command_says_what_it_frees_as_a_table_and_as_json(make: Make, tmp_path: Path) -> None:
    make("a")
    held = make("b")
    runs, call = ["--runs", str(tmp_path / "runs")], CliRunner().invoke
    with hold(held):
        dry = call(app, ["gc", "--dry-run", "--json", *runs])
        shown = call(app, ["gc", *runs], env={"COLUMNS": "200"})
    told = json.loads(dry.stdout)
    assert (dry.exit_code, told["dry_run"], told["bytes"]) == (0, True, 9000)
    a, b = told["studies"]
    assert (a["name"], a["bytes"], a["skipped"], len(a["freed"])) == ("a", 9000, "", 9)
    assert {row["kind"] for row in a["freed"]} == {"checkpoints"}
    assert all(not Path(row["path"]).exists() for row in a["freed"])
    assert "worked on" in b["skipped"]
    assert shown.exit_code == 0
    _, row, skipped, total = shown.stdout.splitlines()
    assert row.split() == ["a", "9", "-", "-", "-", "9.0", "kB"]
    assert skipped.startswith("b: b is being worked on by process")
    assert total == "9.0 kB were freed: 9 paths"
    again = call(app, ["gc", "a", "--keep", "0", *runs])
    assert "3.0 kB were freed: 3 paths" in again.stdout


def test_a_study_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "search", "gc", "none", "--runs", str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert "holds no study" in answer.stderr
    assert answer.stderr.count("\n") == 1
