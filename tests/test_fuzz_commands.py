"""The worst inputs through the real command line: exit code 2 and one line, without waiting."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import check_line
from PIL import Image
from sick_study import finished

from search import cli
from search.config.config import StudyConfig
from search.record.final_metrics import read_metrics, write_metrics
from search.record.storage import engine_of

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("one_thread")]

CHECKOUT = Path(__file__).parent.parent
GOOD = "budget: {trials: 1}\nspace: {filters: 4, learning_rate: 0.1}\n"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Return a function that runs a command in this process; exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def check_refused(ended: tuple[int, str, str], *words: str) -> None:
    code, _, errors = ended
    assert code == 2, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    check_line(errors[len("error: ") : -1])
    for word in words:
        assert word in errors


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., StudyConfig]
) -> Path:
    """Return a folder of studies with a finished one, `good`."""
    folder = tmp_path_factory.mktemp("runs") / "good"
    study = finished(folder, make_config(budget={"trials": 4}, baselines=[]))
    metrics = read_metrics(folder / "final")
    for row in metrics["models"]:
        row |= {"epochs": 4, "train_accuracy": 0.9, "seed": 1, "test": None}
    write_metrics(folder / "final", metrics)
    engine_of(study.optuna).dispose()
    return folder.parent


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (os.mkfifo, "a pipe or a device"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
        (text("\x1b[2J: \x1b[31m\n"), "not YAML"),
        (text("study: " + "[" * 100_000), "nested deeper"),
        (text(GOOD + '"\\e[2J\\n": 1\n'), "no key"),
        (text("a: &a [*a]\nstudy: *a"), "nested deeper"),
        (text("budget: {trials: " + "9" * 10_000 + "}"), "is too large"),
        (text("budget: {trials: 1}\nspace: {? [1] : 2}"), "unhashable"),
        (text("budget: {trials: 1}\nspace: {filters: {2001-01-01: 1}}"), "filters has no key"),
        (text(GOOD + "seed: {choice: [" + "1," * 4_000 + "]}\n"), "but must be a whole number"),
        (text(GOOD + "data: {source: ~nobody-of-that-name/x}\n"), "no such user"),
        (text(GOOD + 'data: {source: "a\\0b\\n"}\n'), "cannot be shown or written"),
    ],
)  # fmt: skip
def test_a_study_file_of_any_kind(
    command: Command, tmp_path: Path, make: Callable[[Path], Any], word: str
) -> None:
    make(tmp_path / "study.yaml")
    check_refused(command("run", "study.yaml", "--quiet"), word)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "override",
    ["a" * 90_000, "=", ".".join("a" * 30_000) + "=1", "seed=" + "[" * 50_000, "study=\udcff",
     "\x1b[2J=1", "seed=&a [*a]", "seed=0x" + "f" * 50_000, "data.source=\x1b[2J"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_an_override_of_any_kind(command: Command, override: str) -> None:
    check_refused(command("run", "--preset", "quickstart", "--set", override, "--quiet"))


def inputs(folder: Path) -> dict[str, Path]:
    """Make the worst things that can be given to `predict`."""
    folder.mkdir()
    made: dict[str, Callable[[Path], Any]] = {
        "pipe.png": os.mkfifo,
        "pipe.csv": os.mkfifo,
        "folder.jpg": Path.mkdir,
        "loop.png": lambda path: path.symlink_to(path),
        "zero.png": lambda path: path.symlink_to("/dev/zero"),
        "half.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        "deep.png": lambda path: Image.fromarray(np.zeros((9, 9), np.uint16)).save(path),
        "bad\n\x1b[2J.csv": lambda path: path.write_text("1,2\n"),
        "bomb.csv.gz": lambda path: path.write_bytes(gzip.compress(bytes(1 << 24)) * 8),
        "what.txt": Path.touch,
        "nothing.png": lambda path: None,
        "empty": Path.mkdir,
    }
    for name, make in made.items():
        make(folder / name)
    return {name: folder / name for name in made}


def test_everything_that_is_no_picture_given_to_predict(command: Command, runs: Path) -> None:
    for path in inputs(runs.parent / "inputs").values():
        check_refused(command("predict", "good", path, "--runs", runs))


def test_a_picture_whose_name_cannot_be_printed_is_labelled(command: Command, runs: Path) -> None:
    path = runs.parent / "a\udcff\n\x1b[2J.png"
    Image.new("L", (28, 28)).save(path, "PNG")
    shutil.rmtree(runs / "good" / "export")  # it is not a real one: the weights answer
    for more in ([], ["--json"]):
        code, output, errors = command("predict", "good", path, "--runs", runs, *more)
        assert (code, errors) == (0, "")
        output.encode()
        assert "\x1b" not in output and "class " in output


@pytest.mark.parametrize("name", ["runs/loop", "~", "a" * 300, "\x1b[2J", "..", "/", "\udcff"])
def test_a_study_of_any_name(command: Command, runs: Path, name: str) -> None:
    (runs / "loop").symlink_to(runs / "loop")
    for words in (["status"], ["resume"], ["report"], ["verify"], ["explain"], ["predict"]):
        more = {"explain": ["1"], "predict": ["x.png"]}.get(words[0], [])
        check_refused(command(*words, name, *more, "--runs", runs))


@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("study.db", text("SQLite format 3\0" + "\0" * 5_000)),
        ("study.db", text("")),
        ("config.yaml", text("study: [")),
        ("config.yaml", os.mkfifo),
        ("study.db", os.mkfifo),
        ("final/metrics.json", text("[]")),
        ("final/metrics.json", os.mkfifo),
    ],
)
def test_a_study_with_a_damaged_file(
    command: Command, runs: Path, file: str, make: Callable[[Path], Any]
) -> None:
    (runs / "good" / file).unlink()
    make(runs / "good" / file)
    for words in ("status", "report"):
        check_refused(command(words, "good", "--runs", runs))
    code, output, _ = command("status", "--runs", runs)  # among others it has a line of its own
    assert code == 0 and "good" in output
    assert command("doctor", "good", "--check", "--runs", runs)[0] in (1, 2)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_that_is_none(command: Command, runs: Path, make: Callable[[Path], Any]) -> None:
    (runs / "good" / ".lock").unlink(missing_ok=True)
    make(runs / "good" / ".lock")
    check_refused(command("resume", "good", "--runs", runs))


def test_a_fault_of_the_program_is_one_line_too_and_a_traceback_with_debug(
    command: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug\n")

    monkeypatch.setattr("search.screen.result.summarise", fail)
    check_refused(command("status", "good", "--runs", runs), "KeyError", "--debug")
    monkeypatch.setattr(sys, "argv", ["search", "--debug", "status", "good", "--runs", str(runs)])
    try:
        with pytest.raises(KeyError):
            cli.main()
    finally:
        cli._options["debug"] = False


def test_the_worst_in_processes_of_their_own(runs: Path) -> None:
    # The same once more without pytest around it: nothing is printed but the line.
    places = inputs(runs.parent / "inputs")
    (runs.parent / "study.yaml").symlink_to("/dev/zero")
    for arguments in (
        ["predict", "good", str(places["pipe.png"]), "--runs", str(runs)],
        ["predict", "good", os.fsencode(places["bad\n\x1b[2J.csv"]), "--runs", str(runs)],
        ["run", str(runs.parent / "study.yaml"), "--runs", str(runs)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "search", *arguments],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        check_refused((done.returncode, done.stdout, done.stderr))
        assert done.stdout == ""
