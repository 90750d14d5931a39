"""`stop STUDY`, against another process that works on the study; no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.record.stop import is_worked_on
from search.record.study import Study

CHECKOUT = Path(__file__).parent.parent
DRIVER = """
import sys, time
from pathlib import Path
from search.record.lock import hold
from search.drive.session import session
from search.record.study import open_study

study = open_study(Path(sys.argv[1]))
seconds = float(sys.argv[2])  # how long it takes to come to an end that it was asked for
asked = []
with hold(study), session(study, "search", stop=asked.append):
    study.set_state("searching")
    print("at work", flush=True)
    while not asked:
        time.sleep(0.01)
    print(asked[0], flush=True)
    time.sleep(seconds)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    """Return a study that nobody works on."""
    return make_study()


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts Python and returns the process; all are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(start: Start, study: Study, *options: str) -> subprocess.Popen[str]:
    """Start the command."""
    return start("-m", "search", "stop", str(study.folder), *options)


def work(start: Start, study: Study, seconds: float) -> subprocess.Popen[str]:
    """Start a process that works on a study, and takes so long to stop."""
    process = start("-c", DRIVER, str(study.folder), str(seconds))
    assert line_of(process) == "at work"
    return process


def test_where_nobody_works_it_says_so_and_leaves_no_request(start: Start, study: Study) -> None:
    process = stop(start, study)
    line = "nobody works on small; resume with: python -m search resume small\n"
    assert process.communicate() == (line, None)
    assert process.returncode == 0
    assert not (study.folder / ".stop").exists()


def test_it_asks_waits_and_says_how_to_go_on(start: Start, study: Study) -> None:
    driver = work(start, study, 1)
    assert is_worked_on(study)
    process = stop(start, study)
    assert line_of(process).startswith("small is to stop after the current epochs; waiting")
    assert line_of(driver) == "asked to by `stop`"
    last = line_of(process)
    assert driver.wait() == 0
    assert last.endswith(
        "nobody works on small any more; resume with: python -m search resume small"
    )
    assert process.wait() == 0
    assert not is_worked_on(study)
    assert not (study.folder / ".stop").exists()


def test_now_ends_it_at_once_and_ctrl_c_ends_the_waiting_only(start: Start, study: Study) -> None:
    driver = work(start, study, 600)
    patient = stop(start, study)
    assert line_of(patient).startswith("small is to stop")
    assert line_of(driver) == "asked to by `stop`"
    patient.send_signal(signal.SIGINT)
    assert line_of(patient) == "no longer waiting; small stops all the same"
    assert patient.wait() == 0
    assert driver.poll() is None
    hasty = stop(start, study, "--now")
    assert line_of(hasty).startswith("small is to stop at once")
    assert hasty.wait() == 0
    assert driver.wait() != 0
    assert "KeyboardInterrupt" in driver.communicate()[0]
    assert study.sessions.all()[-1]["ended_at"] is not None


def test_a_driver_that_was_killed_is_not_waited_for(start: Start, study: Study) -> None:
    driver = work(start, study, 600)
    driver.send_signal(signal.SIGSTOP)  # it reads no request
    process = stop(start, study)
    assert line_of(process).startswith("small is to stop")
    driver.kill()
    driver.wait()
    assert process.wait() == 0
    assert study.sessions.all()[-1]["ended_at"] is None
    assert not is_worked_on(study)
    assert not (study.folder / ".stop").exists()


@pytest.mark.parametrize(("silent_seconds", "expected"), [(5, True), (600, False)])
def test_a_driver_on_another_machine_is_there_while_it_is_seen(
    study: Study, monkeypatch: pytest.MonkeyPatch, silent_seconds: float, expected: bool
) -> None:
    study.sessions.start("search", host="elsewhere", pid=1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + silent_seconds)
    assert is_worked_on(study) is expected


def test_an_unknown_study_is_one_line(start: Start, tmp_path: Path) -> None:
    process = start("-m", "search", "stop", "nothing", "--runs", str(tmp_path))
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.startswith("error: ") and output.count("\n") == 1
