"""Commands for a cluster elsewhere: addresses, folders of the head, and nobody who answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from search.engine.jobs import RUNS, Jobs, head_folder
from search.study_error import StudyError


@pytest.mark.parametrize("address", ["auto", "head:8265", "ray://head:10001", ""])
def test_only_the_address_of_a_dashboard_is_taken(address: str) -> None:
    with pytest.raises(StudyError, match="is not of the form http://HOST:8265"):
        Jobs(address)


@pytest.mark.parametrize(
    ("runs", "environment", "folder"),
    [
        (None, {}, "/home/me/fashion-search"),
        (None, {RUNS: "/mnt/all our runs"}, "/mnt/all our runs"),
        ("~/a b", {RUNS: "/mnt/runs"}, "/home/me/a b"),
        ("/mnt/it's $HOME", {}, "/mnt/it's $HOME"),
    ],
)
def test_a_folder_of_the_head_is_what_its_shell_makes_of_it(
    runs: str | None, environment: dict[str, str], folder: str
) -> None:
    shell = f'for word in {head_folder(runs)}; do printf "%s|" "$word"; done'
    answer = subprocess.run(
        ["/bin/sh", "-c", shell], env={"HOME": "/home/me", **environment}, capture_output=True
    )
    assert answer.stdout.decode() == f"{folder}|"


def test_a_folder_that_depends_on_where_the_job_runs_is_refused() -> None:
    with pytest.raises(StudyError, match="give its whole path"):
        head_folder("runs")


COMMANDS = ["submit --preset quickstart", "status x", "stop x", "logs x", "fetch x", "resume x"]


@pytest.mark.parametrize("command", COMMANDS)
def test_where_nobody_answers_one_line_says_so(command: str, tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, so that nobody else is there, and not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        answer = subprocess.run(
            [sys.executable, "-m", "search", *command.split(), "--address", address],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"error: the cluster at {address} does not answer")
    assert answer.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_folder_of_this_machine_is_not_submitted(tmp_path: Path) -> None:
    command = ["submit", "--preset", "quickstart", "--data", "images", "--address", "http://h:1"]
    answer = subprocess.run(
        [sys.executable, "-m", "search", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert "--data images is a folder of the cluster: give its whole path" in answer.stderr


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://head:8265", "use `submit --address"),
        ("head:6379", "is neither auto"),
        ("ray://127.0.0.1:1", "no Ray Client server answers"),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_run_names_the_addresses_that_it_takes(address: str, told: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "search", "run", "--preset", "quickstart", "--address", address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert told in answer.stderr and len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
