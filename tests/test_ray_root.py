"""Ray's root: held, removed, and swept after drivers that were killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.engine.ray_root import PLACE, keep_logs, ray_root, sweep

CHECKOUT = Path(__file__).parent.parent
DRIVER = """
import subprocess, sys, time
from search.engine.ray_root import ray_root
with ray_root() as root:
    log = (root / "ray.log").open("w")
    log.write("x" * 1000)
    log.flush()
    # As Ray's agents do: in a group of its own, with another name than it was started with.
    script = "import time; time.sleep(600)"
    agent = subprocess.Popen([sys.executable, "-c", script], stdout=log, start_new_session=True)
    print(root, agent.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a short temporary folder for roots; pytest's own are too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fs"))
    monkeypatch.setenv(PLACE, str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def driver() -> Iterator[tuple[subprocess.Popen[str], Path, psutil.Process]]:
    """Return a process that holds a root, the root, and a process that writes to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        root, pid = process.stdout.readline().split()
        agent = psutil.Process(int(pid))
        yield process, Path(root), agent
        process.kill()
        if agent.is_running():
            agent.kill()


def test_a_root_is_removed_with_all_that_is_in_it(place: Path) -> None:
    with pytest.raises(ZeroDivisionError), ray_root() as root:
        assert root.parent == place
        (root / "session" / "logs").mkdir(parents=True)
        (root / "session" / "logs" / "raylet.out").write_text("log")
        (root / "session_latest").symlink_to(root / "session")
        1 / 0  # noqa: B018
    assert not list(place.iterdir())


def test_what_still_writes_to_a_root_is_ended_with_it(place: Path) -> None:
    with ray_root() as root, (root / "log").open("w") as log:
        script = "import time; time.sleep(600)"
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=log)
    assert not psutil.pid_exists(writer.pid)
    writer.wait()
    assert not list(place.iterdir())


def test_the_root_of_a_driver_that_was_killed_is_swept_with_what_it_left(
    place: Path, driver: tuple[subprocess.Popen[str], Path, psutil.Process]
) -> None:
    process, root, agent = driver
    with (root / "ray.log").open() as log, subprocess.Popen(["tail", "-f"], stdin=log) as reader:
        with ray_root() as ours:
            assert sweep() == []  # both are held
            process.kill()
            process.wait()
            (swept,) = sweep()
            assert (swept.folder, swept.bytes, swept.processes) == (root, 1000, 1)
            assert not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE
            assert ours.is_dir() and list(place.iterdir()) == [ours]
            assert sweep() == []
        assert reader.poll() is None  # somebody who was looking at a log
        reader.kill()


def test_folders_of_others_are_not_swept(place: Path) -> None:
    for name in ("fashion-search-proof-ab12", "other"):
        (place / name).mkdir()
        (place / name / "file").touch()
    assert sweep() == []
    assert len(list(place.iterdir())) == 2


def test_what_a_sweep_that_was_broken_off_left_is_swept_again(place: Path) -> None:
    # The lock goes last: without it, nobody would know whose the rest was.
    (place / "fashion-search-123456").mkdir()
    (place / "fashion-search-123456" / "driver.lock").touch()
    assert len(sweep()) == 1
    assert not list(place.iterdir())


def test_logs_are_kept_in_place_of_older_ones(place: Path, tmp_path: Path) -> None:
    for text in ("first", "second"):
        with ray_root() as root:
            logs = root / "session_2026-01-01" / "logs"
            logs.mkdir(parents=True)
            (logs / f"{text}.out").write_text(text)
            (root / "session_latest").symlink_to(logs.parent)
            keep_logs(root, tmp_path)
    (kept,) = (tmp_path / "ray-logs").iterdir()
    assert (kept.name, kept.read_text()) == ("second.out", "second")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/tmp/" + 80 * "x", r"bytes too long a path .*; set FASHION_SEARCH_TMP to a shorter one"),
        ("/tmp/nothing", r"/tmp/nothing cannot be used: No such file"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, folder: str, message: str
) -> None:
    monkeypatch.setenv(PLACE, folder)
    with pytest.raises(ValueError, match=message), ray_root():
        pass
