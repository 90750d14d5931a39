"""The test set is sealed: during a whole study, one function opens its files, once, in one process.

Python tells of every file that is opened, in every process of a study (an audit hook, put in by
`sitecustomize`): the driver, Ray's workers, those of the race and of the retraining.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.synthetic import draw_garments
from model.config import Configuration
from search.final.finalists import RACE, entrants_of, is_raced, winner_of
from search.final.retrain import plan_final_models
from search.record.study import Study, best_of, open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parent.parent
WATCH = """
import os, sys, traceback

def told(event, arguments):
    if event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    name = os.path.basename(os.fsdecode(arguments[0]))
    if name.startswith(("t10k-", "train-")):
        callers = " ".join(
            f"{os.path.relpath(frame.filename, CHECKOUT)}:{frame.name}"
            for frame in traceback.extract_stack()
            if frame.filename.startswith(CHECKOUT)
        )
        say(f"open {name} by {callers}")

def say(line):
    file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{os.getpid()} {line}\\n".encode())
    os.close(file)

sys.addaudithook(told)
say("watched: " + " ".join(sys.orig_argv))
"""
STUDY = (
    "max_epochs=3",
    "budget={trials: 6}",
    "points=[]",
    "baselines=[seed-32]",
    "data.validation_images=200",
    "data.fallback=null",
    "space={filters: {choice: [4, 6, 8], per_block: true}, num_blocks: 1,"
    " learning_rate: {float: [0.02, 0.3], log: true}, batch_size: 64}",
    "asha={min_competitors: 2, reduction_factor: 2, grace_epochs: 1}",
    "final={finalists: 3, rounds: 3, seeds: 2, baseline_seeds: 1}",
    "resources.max_concurrent=2",
)


def images(folder: Path) -> None:
    """Write a small data set of drawn garments as four IDX files."""
    folder.mkdir()
    for part, prefix, number in (("train", "train", 1200), ("test", "t10k", 300)):
        drawn = draw_garments(number, part=part, seed=0)  # type: ignore[arg-type]
        pixels = drawn.images[:, 0]
        for kind, values in (("images-idx3", pixels), ("labels-idx1", drawn.labels)):
            plain = np.ascontiguousarray(values, dtype=np.uint8)
            head = bytes((0, 0, 8, plain.ndim)) + np.array(plain.shape, ">u4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(head + plain.tobytes())


def watched(place: Path) -> dict[str, str]:
    """Return an environment whose Python processes tell `place`/log what they open."""
    hook = place / "hook"
    hook.mkdir(parents=True)
    code = f"CHECKOUT = {str(CHECKOUT)!r}\nLOG = {str(place / 'log')!r}\n{WATCH}"
    (hook / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(hook), os.environ.get("PYTHONPATH", "")))}


def opened(place: Path, prefix: str) -> list[tuple[str, str]]:
    """Return (process, who) for every file opened whose name begins so."""
    lines = [line.split(" ", 3) for line in (place / "log").read_text().splitlines()]
    return [(pid, rest[0]) for pid, verb, name, *rest in lines if verb == "open" and prefix in name]


def check_seal(place: Path) -> set[str]:
    """Return the processes that opened test files; fail where any but the look did."""
    found = opened(place, "t10k-")
    strangers = [who for _, who in found if "search/final/look.py:look_at_test" not in who]
    assert not strangers, strangers
    return {pid for pid, _ in found}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the study runs/small, searched, raced, retrained, tested and watched."""
    folder = tmp_path_factory.mktemp("sealed")
    images(folder / "images")
    environment = os.environ | watched(folder)
    settings = [part for value in STUDY for part in ("--set", value)]
    for command in (
        ["run", "--preset", "quickstart", "--data", str(folder / "images"), "--name", "small", "-q",
         *settings],
        ["status", "small"],
        ["report", "small"],
        ["explain", "small", "t0001"],
        ["resume", "small", "-q"],
        ["verify", "small"],
        ["space", "small"],
        ["export", "small", "--out", str(folder / "exported")],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "search", *command, "--runs", str(folder / "runs")],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Callable[[], Study]:
    """Return what opens a copy of the study."""

    def open_copy() -> Study:
        if not (tmp_path / "small").exists():
            shutil.copytree(place / "runs" / "small", tmp_path / "small")
        return open_study(tmp_path / "small")

    return open_copy


def test_only_the_look_opens_test_images_once_in_one_process(place: Path) -> None:
    assert len(check_seal(place)) == 1
    names = {
        line.split()[2] for line in (place / "log").read_text().splitlines() if "t10k-" in line
    }
    assert names == {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}
    (look,) = open_study(place / "runs" / "small").record.looks()
    assert look["reason"] == "final evaluation" and not look["broke_seal"]


def test_every_process_of_the_study_was_watched(place: Path) -> None:
    started = [line for line in (place / "log").read_text().splitlines() if " watched: " in line]
    assert sum("default_worker.py" in line for line in started) >= 2  # Ray's, that train trials
    assert sum("spawn_main" in line for line in started) >= 4  # two of the race, two of the retrain
    # The training images are opened by the driver and by what races and retrains.
    assert len({pid for pid, _ in opened(place, "train-")}) >= 5


def test_a_process_that_opens_test_labels_is_caught(place: Path, tmp_path: Path) -> None:
    peek = (
        "from pathlib import Path; from data.idx import load_idx;"
        f" load_idx(Path({str(place / 'images')!r}), 'test')"
    )
    environment = os.environ | watched(tmp_path)
    subprocess.run([sys.executable, "-c", peek], cwd=CHECKOUT, env=environment, check=True)
    with pytest.raises(AssertionError, match=r"data/idx\.py:load_idx"):
        check_seal(tmp_path)


def test_the_race_measures_every_finalist_anew_and_the_chosen_one_is_retrained(
    copied: Callable[[], Study],
) -> None:
    study = copied()
    race, trials = study.noted(RACE), study.trials()
    rows = {row["name"]: row for row in race["candidates"]}
    assert sum(row["kind"] == "finalist" for row in rows.values()) == 3
    assert rows["seed-32"]["kind"] == "baseline"
    best = best_of(trials)
    assert best is not None and race["candidates"][0]["trial"] == best.name
    for row in rows.values():
        done = row["left_after"] or race["rounds"]
        assert len(row["values"]) == done >= 2
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        if row["search_epochs"] == row["epochs"]:
            assert row["optimism"] == pytest.approx(row["search_value"] - row["mean"])
        else:  # the search had stopped it: its value is of less training
            assert row["optimism"] is None
    assert race["ended"] and race["reason"] and race["chosen"] in rows
    chosen, epochs = winner_of(study)
    assert chosen.name == rows[race["chosen"]]["trial"]
    winners = [model for model in plan_final_models(study) if model.group == "winner"]
    assert {model.configuration.key() for model in winners} == {
        Configuration.from_dict(chosen.configuration or {}).key()
    }
    assert {model.epochs for model in winners} == {epochs}
    result = json.loads((study.folder / "result.json").read_text())
    assert result["final"]["trial"] == chosen.name and result["race"] == race
    assert result["final"]["comparison"]["baseline"] == "seed-32"
    kinds = [row["kind"] for row in result["final"]["extras"]]
    assert kinds == ["flip", "ensemble", "ensemble+flip"]


def test_a_race_that_was_killed_goes_on_and_comes_to_the_same(
    copied: Callable[[], Study], tmp_path: Path
) -> None:
    study = copied()
    whole = study.noted(RACE)
    study.note(RACE, None)
    study.set_state("searched")
    shutil.rmtree(study.folder / "final")
    command = [sys.executable, "-m", "search", "resume", "small", "-q", "--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE) as driver:
        deadline = time.monotonic() + 200
        while not _values(copied()):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    before = _values(copied())
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = copied()
    assert after.noted(RACE) == whole  # the same seeds and splits: the same values, bit for bit
    assert before and before.items() <= _values(after).items()


def _values(study: Study) -> dict[tuple[str, int], Any]:
    rows = (study.noted(RACE) or {"candidates": []})["candidates"]
    return {(row["name"], r): value for row in rows for r, value in enumerate(row["values"])}


def test_another_finalist_makes_it_another_race_that_keeps_what_is_known(
    copied: Callable[[], Study],
) -> None:
    study = copied()
    assert is_raced(study)
    final = study.config.final.model_copy(update={"finalists": 2})
    study.config = study.config.model_copy(update={"final": final})
    assert not is_raced(study) and len(entrants_of(study)) == 3
    best = best_of(study.trials())
    assert best is not None and winner_of(study)[0].name == best.name
    none = study.config.final.model_copy(update={"finalists": 0})
    study.config = study.config.model_copy(update={"final": none})
    assert winner_of(study)[0].name == best.name
