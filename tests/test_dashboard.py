"""Both dashboards on a real study: they answer, only read, and leave nobody behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from postgres_server import Server, running_server

from search.config.config import StudyConfig
from search.handover.dashboard import DashboardError, _port, storage_url
from search.record.study import create

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CHECKOUT = Path(__file__).parent.parent
WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "optuna_dashboard" else find(name)
from search.cli import main
main()
"""


def start(*words: str, script: str | None = None, **environment: str) -> tuple[Any, list[str]]:
    """Start `dashboard` and return it with what it said until it waits."""
    program = ["-c", script] if script else ["-m", "search"]
    process = subprocess.Popen(
        [sys.executable, *program, "dashboard", *words],
        cwd=CHECKOUT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    assert process.stdout is not None
    while not (said and said[-1].startswith("Ctrl-C")):
        line = process.stdout.readline()
        assert line, said
        said.append(line.rstrip())
    return process, said


def got(url: str, method: str = "GET") -> str:
    """Return what an address answers."""
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def address(said: list[str], name: str) -> str:
    """Return where a dashboard said it is."""
    (line,) = [line for line in said if line.startswith(name)]
    found = re.search(r"http://127\.0\.0\.1:\d+/.*", line)
    assert found, line
    return found[0]


def children(process: Any) -> list[psutil.Process]:
    """Return all that it started, and what those started."""
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return which of them go on."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_both_answer_only_read_and_end_together(patients: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    shutil.copytree(patients["finished"], tmp_path / "done")
    process, said = start("done", "--runs", str(tmp_path))
    try:
        started = children(process)
        assert len(started) >= 3  # multiprocessing has one of its own
        tensorboard, optuna = address(said, "TensorBoard"), address(said, "optuna-dashboard")
        assert "TensorBoard" in got(tensorboard)
        assert got(optuna)
        served = optuna.partition("/dashboard/")[0]
        (summary,) = json.loads(got(f"{served}/api/studies"))["study_summaries"]
        assert summary["study_name"] == "finished"
        number = optuna.rpartition("/")[2]
        trials = json.loads(got(f"{served}/api/studies/{number}"))["trials"]
        assert len(trials) > 3
        with pytest.raises(urllib.error.HTTPError):
            got(f"{served}/api/studies/{number}", "DELETE")
        assert len(json.loads(got(f"{served}/api/studies/{number}"))["trials"]) == len(trials)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "stopped\n", "")
        assert left(started) == []
    finally:
        process.kill()
        process.communicate()


def test_without_the_other_one_it_says_how_to_get_it_and_its_child_ends_with_it(
    patients: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(patients["stopped"], tmp_path / "half")
    process, said = start("half", "--runs", str(tmp_path), script=WITHOUT)
    try:
        assert said[0].startswith("optuna-dashboard is not installed; pip install")
        assert said[-1] == "Ctrl-C ends it"
        assert "TensorBoard" in got(address(said, "TensorBoard"))
        started = children(process)
        assert started
        process.kill()
        assert left(started) == []
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(DashboardError, match=f"port {number} is taken"):
            _port(number)
    assert _port(number) == number
    with pytest.raises(DashboardError, match="taken"):
        _port(number, taken=number)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a PostgreSQL server that runs."""
    with running_server() as running:
        yield running


def test_a_study_on_a_server_is_shown_and_no_password_is_said(
    server: Server,
    tmp_path: Path,
    make_config: Callable[..., StudyConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("optuna_dashboard")
    server.sql("CREATE DATABASE shown OWNER weak")
    monkeypatch.setenv("PGPASSWORD", "right")
    config = make_config(storage=server.url("shown", user="weak"))
    create(config, tmp_path / "far", facts={}, environment={})
    create(config, tmp_path / "other", facts={}, environment={})
    process, said = start("other", "--runs", str(tmp_path), PGPASSWORD="right")
    try:
        started = children(process)
        optuna = address(said, "optuna-dashboard")
        served, _, number = optuna.partition("/dashboard/studies/")
        name = json.loads(got(f"{served}/api/studies/{number}"))["name"]
        assert name.startswith("other-")
        with pytest.raises(urllib.error.HTTPError):
            got(f"{served}/api/studies/{number}", "DELETE")
        assert json.loads(got(f"{served}/api/studies/{number}"))["name"] == name
        assert not any("right" in word for child in started for word in child.cmdline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "right" not in out + "".join(said)
    finally:
        process.kill()
        process.communicate()


def test_the_address_of_a_database_is_one_to_read_only(tmp_path: Path) -> None:
    assert storage_url(Path("/a b"), None) == "sqlite:///file:/a%20b/study.db?mode=ro&uri=true"
    url = storage_url(tmp_path, "postgresql://me@host:5/base?sslmode=require")
    assert url == (
        "postgresql+psycopg://me@host:5/base?sslmode=require"
        "&options=-c%20default_transaction_read_only%3Don"
    )
