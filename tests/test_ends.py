"""Whatever ends the process of a study: nothing is left, and the study goes on (real Ray).

One study is begun, ended in many ways and resumed each time; a second one is ended while it
retrains.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from search.engine.ray_root import PLACE, sweep
from search.record.study import StudyError, open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHECKOUT = Path(__file__).parent.parent
SETTINGS = (
    "data={synthetic_train: 1800, synthetic_test: 100, validation_images: 300, source: synthetic}",
    "space={filters: {choice: [4, 6, 8]}, learning_rate: {float: [0.01, 0.1]}, batch_size: 50}",
    "points=[]",
    "baselines=[]",
    "asha={grace_epochs: 50, reduction_factor: 2}",
    "final={finalists: 0, seeds: 2, baseline_seeds: 1}",
    "resources={max_concurrent: 2, hang_seconds: 300}",
)
SEARCHING = ("max_epochs=400", "budget={trials: 500}")
RETRAINING = ("max_epochs=400", "budget={epochs: 2}")  # two epochs, then the whole schedule
TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass
class Driver:
    """A command at work in a process of its own."""

    process: subprocess.Popen[bytes]
    output: Path
    family: list[psutil.Process] = field(default_factory=list)
    """It, and all that it has started by the last look."""

    def look(self) -> list[psutil.Process]:
        """Remember the family and return it."""
        parent = psutil.Process(self.process.pid)
        self.family = [parent, *parent.children(recursive=True)]
        return self.family

    def member(self, name: str) -> psutil.Process:
        """Return the one process of the family with this name, or with it in its command line."""
        found = [p for p in self.look()[1:] if p.name() == name or name in p.cmdline()]
        assert len(found) == 1, (name, self.family)
        return found[0]

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send a signal to the driver, or to its process group as a terminal does."""
        self.look()
        (os.killpg if to_all else os.kill)(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Wait until nothing of the family is left; return the exit code and what was said."""
        code = self.process.wait()
        _, alive = psutil.wait_procs(self.family, timeout=20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        return code, self.output.read_text()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return the folder that Ray's roots are made in."""
    with tempfile.TemporaryDirectory(prefix="fs") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the studies."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def start(place: Path, runs: Path, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Return a function that starts a command in a session of its own."""
    drivers: list[Driver] = []

    def begin(*command: str, terminal: int | None = None) -> Driver:
        output = tmp_path / f"output-{len(drivers)}.txt"
        arguments = [sys.executable, "-m", "search", *command, "--runs", str(runs)]
        if terminal is not None:
            arguments = [sys.executable, "-c", TERMINAL, *arguments[1:]]
        with output.open("wb") as file:
            process = subprocess.Popen(
                arguments,
                cwd=CHECKOUT,
                env=os.environ | {PLACE: str(place)},
                stdin=terminal or subprocess.DEVNULL,
                stdout=terminal or file,
                stderr=terminal or file,
                start_new_session=terminal is None,
            )
        drivers.append(Driver(process, output))
        return drivers[-1]

    yield begin
    for driver in drivers:
        if driver.process.poll() is None:  # a test failed
            driver.look()
            driver.process.kill()
            driver.end()


@pytest.fixture
def resume(start: Callable[..., Driver], runs: Path, place: Path) -> Callable[..., Driver]:
    """Return a function that goes on with the first study, and returns when it trains."""

    def go_on(**options: int) -> Driver:
        epochs = num_epochs(runs / "ended")
        command = ["resume", "ended"] if epochs else begin("ended", *SEARCHING)
        driver = start(*command, **options)
        wait_for(lambda: num_epochs(runs / "ended") > epochs + 3, driver)
        assert len(list(place.iterdir())) == 1
        return driver

    return go_on


def begin(name: str, *settings: str) -> list[str]:
    """Return the command that begins a study."""
    pairs = [part for value in (*SETTINGS, *settings) for part in ("--set", value)]
    return ["run", "--preset", "quickstart", "--name", name, *pairs]


def wait_for(condition: Callable[[], object], driver: Driver) -> None:
    """Wait until something holds, while the driver works."""
    while not condition():
        assert driver.process.poll() is None, driver.output.read_text()
        time.sleep(0.5)


def num_epochs(folder: Path) -> int:
    """Return how many epochs the record of a study has; 0 where there is none yet."""
    try:
        return len(open_study(folder).record.epochs())
    except StudyError:
        return 0


@pytest.fixture
def left(runs: Path, place: Path) -> Callable[..., str]:
    """Return a function that waits for a driver's end, and asserts how it left the first study."""

    def check(driver: Driver, code: int, last: str = "") -> str:
        found, output = driver.end()
        assert found == code, output
        if last:
            line = f"{last}; resume with: python -m search resume ended"
            # Not always the last one: the search may say a line more until it is ended.
            assert line in output.strip().splitlines()[-3:], output
        assert "Traceback" not in output
        study = open_study(runs / "ended")
        assert study.state == "stopped"
        assert study.sessions.all()[-1]["ended_at"] is not None
        assert "running" in {trial.outcome for trial in study.trials()}  # in flight: it goes on
        assert not list(place.iterdir())
        return output

    return check


def test_stop_from_another_terminal(
    resume: Callable[..., Driver], start: Callable[..., Driver], left: Callable[..., str]
) -> None:
    driver = resume()
    driver.look()
    asking = start("stop", "ended")
    left(driver, 130, "stopped")
    assert asking.process.wait() == 0
    assert "nobody works on ended any more" in asking.output.read_text()


def test_sigterm_to_the_whole_group_as_timeout_sends_it(
    resume: Callable[..., Driver], left: Callable[..., str]
) -> None:
    driver = resume()
    driver.send(signal.SIGTERM, to_all=True)
    output = left(driver, 130, "stopped")
    assert "has lost an attempt" not in output  # its workers are no part of the group


def test_a_terminal_that_is_closed(resume: Callable[..., Driver], left: Callable[..., str]) -> None:
    master, slave = os.openpty()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if select.select([master], [], [], 0.1)[0]:
                os.read(master, 1 << 16)

    reader = threading.Thread(target=read)
    reader.start()
    driver = resume(terminal=slave)
    os.close(slave)
    driver.look()
    over.set()
    reader.join()
    os.close(master)
    left(driver, 130)


def test_ctrl_c_again_and_again(resume: Callable[..., Driver], left: Callable[..., str]) -> None:
    driver = resume()
    for _ in range(4):
        driver.send(signal.SIGINT, to_all=True)
        time.sleep(0.3)
    left(driver, 130, "stopped")


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_is_killed(
    resume: Callable[..., Driver], left: Callable[..., str], runs: Path, name: str
) -> None:
    driver = resume()
    driver.member(name).kill()
    logs = runs / "ended" / "ray-logs"
    left(driver, 1, f"error: Ray died (its {name} has ended; see {logs})")
    assert (logs / "raylet.out").stat().st_size


def test_ray_ends_the_driver_because_an_agent_was_killed(
    resume: Callable[..., Driver], left: Callable[..., str]
) -> None:
    driver = resume()
    driver.member("ray::DashboardAgent").kill()
    output = left(driver, 1)
    # Said by the driver where it is quicker than Ray, by its guard where it is not.
    assert output.strip().endswith("; resume with: python -m search resume ended")


def test_the_driver_is_killed(resume: Callable[..., Driver], left: Callable[..., str]) -> None:
    driver = resume()
    driver.send(signal.SIGKILL)
    line = "error: the search of ended was killed, or its Ray died and ended it"
    left(driver, -signal.SIGKILL, line)


def test_the_driver_and_its_guard_are_killed(
    resume: Callable[..., Driver],
    left: Callable[..., str],
    runs: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = resume()
    driver.member("search.engine.guard").kill()
    driver.send(signal.SIGKILL)
    assert driver.process.wait() == -signal.SIGKILL
    study = open_study(runs / "ended")
    assert (study.state, study.sessions.all()[-1]["ended_at"]) == ("searching", None)
    monkeypatch.setenv(PLACE, str(place))
    (swept,) = sweep()  # as the next driver does
    assert swept.processes >= 2  # Ray's agents
    driver.end()
    assert not list(place.iterdir())
    driver = resume()
    driver.send(signal.SIGINT)
    left(driver, 130, "stopped")


def test_a_retraining_is_killed_and_then_interrupted(
    start: Callable[..., Driver], runs: Path, place: Path
) -> None:
    folder = runs / "retrained"
    driver = start(*begin("retrained", *RETRAINING))
    wait_for(lambda: (folder / "final.part" / "winner-s0").exists(), driver)
    assert not list(place.iterdir())
    driver.send(signal.SIGKILL)
    assert driver.end()[0] == -signal.SIGKILL
    driver = start("resume", "retrained")
    wait_for(lambda: len(driver.look()) > 3, driver)  # itself, multiprocessing's, two trainings
    driver.send(signal.SIGINT, to_all=True)
    code, output = driver.end()
    assert (code, output.splitlines()[-1][:8]) == (130, "stopped;")
    assert "Traceback" not in output
    assert open_study(folder).state == "searched"
    assert open_study(folder).sessions.all()[-1]["ended_at"] is not None
