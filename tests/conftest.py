"""Fixtures that several tests share: a small study, its driver, and epochs without training."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data.images import ImageShape
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.prune.assignment import Assignment, Observer
from search.prune.ladder import Decision
from search.prune.settle import settle
from search.record.study import Study, create

if TYPE_CHECKING:
    from search.drive.driver import Driver

SMALL: dict[str, Any] = {
    "study": "small",
    "max_epochs": 9,
    "data": {"source": "synthetic"},
    "space": {
        "num_blocks": {"int": [1, 2]},
        "filters": {"choice": [4, 8, 16], "per_block": True},
        "learning_rate": {"float": [0.001, 0.5], "log": True},
    },
    "baselines": [],
    "sampler": {"startup_trials": 4},
    "asha": {"grace_epochs": 1, "reduction_factor": 3},
    "budget": {"trials": 12},
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fuzz tests tried, if they ran."""
    lines = sys.modules["fuzzing"].TABLE if "fuzzing" in sys.modules else []
    if lines:
        terminalreporter.section("fuzzed inputs")
        terminalreporter.write("".join(f"{line}\n" for line in lines))


# Before anybody imports Ray, which reads it then: every Ray of these tests asks for this token.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(autouse=True, scope="session")
def _signals() -> Iterator[None]:
    """Let SIGHUP and SIGINT end what tests start: `nohup`, and a shell's `&`, have them ignored,
    and that is inherited."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, before)
    signal.signal(signal.SIGINT, interrupt)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files: of two processes neither waits long for the other in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Undo what a training sets for its process: Hypothesis draws denormal numbers."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep small tensors off a pool of threads that would wait for busy cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that mounts a file system of so many bytes and returns its folder.

    Skipped where this process may not mount.
    """
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        try:
            answer = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("a small file system needs Linux's mount")
        if answer.returncode:
            pytest.skip(f"a small file system cannot be mounted: {answer.stderr.strip()}")
        mounted.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in mounted:  # lazily: a process that was killed may still hold a file
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., StudyConfig]:
    """Return a function that makes a small study's configuration.

    Its arguments replace keys; those of `asha` are added to the small study's.
    """

    def make(**changes: Any) -> StudyConfig:
        asha = SMALL["asha"] | changes.pop("asha", {})
        config = StudyConfig.model_validate(SMALL | changes | {"asha": asha})
        return settle(config, slots=1)

    return make


@pytest.fixture
def make_study(tmp_path: Path, make_config: Callable[..., StudyConfig]) -> Callable[..., Study]:
    """Return a function that makes a small study in a folder of its own."""

    def make(folder: str = "small", **changes: Any) -> Study:
        return create(make_config(**changes), tmp_path / folder, facts={}, environment={})

    return make


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that is looked through for what killed drivers left: not the real one."""
    from search.engine.ray_root import PLACE

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setenv(PLACE, str(folder))
    return folder


@pytest.fixture(scope="session")
def patients(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., StudyConfig]
) -> dict[str, Path]:
    """Return the folders of a stopped, a killed and a finished study, to be copied."""
    from sick_study import finished, killed, stopped
    from simulated_search import SEARCH

    place, config = tmp_path_factory.mktemp("patients"), make_config(**SEARCH)
    made = {"stopped": stopped, "killed": killed, "finished": finished}
    return {name: make(place / name, config).folder for name, make in made.items()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, shape: ImageShape) -> Path:
    """Return an export of a network of Fashion-MNIST's classes that has learned nothing."""
    import numpy as np

    from data.images import FASHION_CLASSES
    from model.checkpoint import LoadedModel
    from model.config import Configuration, NetworkConfig, TrainingConfig
    from model.export import export_model
    from model.train import Training

    config = Configuration(
        network=NetworkConfig(filters=(4,)), training=TrainingConfig(epochs=1, learning_rate=0.1)
    )
    training = Training.start(config, shape, [70.0], [80.0], 5, "cpu")
    loaded = LoadedModel(
        model=training.model.eval(),
        configuration=config,
        shape=shape,
        classes=FASHION_CLASSES,
        seed=5,
        epoch=1,
        metrics={},
    )
    proof = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    place = tmp_path_factory.mktemp("exported") / "export"
    return export_model(
        loaded, place, proof_images=proof, provenance={"study": "demo"}, evaluation=None
    )


@pytest.fixture(scope="session")
def shape() -> ImageShape:
    """Return the shape of Fashion-MNIST's images."""
    return ImageShape(channels=1, height=28, width=28, num_classes=10)


@pytest.fixture(scope="session")
def make_epoch() -> Callable[..., EpochMetrics]:
    """Return a function that makes an epoch's metrics from its number and its accuracy."""

    def make(epoch: int, val_accuracy: float, **changes: Any) -> EpochMetrics:
        values: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": 0.5,
            "train_accuracy": 0.8,
            "val_loss": 0.6,
            "val_accuracy": val_accuracy,
            "learning_rate": 0.1,
            "images_per_second": 1000.0,
            "seconds": 1.5,
        }
        return EpochMetrics(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_driver(shape: ImageShape) -> Callable[..., Driver]:
    """Return a function that makes a study's driver, of one slot unless it is told."""
    # SciPy comes with it: tests of other things do not wait for that.
    from search.drive.driver import Driver

    return lambda study, slots=1, **more: Driver(study, shape=shape, slots=slots, **more)


@pytest.fixture(scope="session")
def hand_out() -> Callable[[Driver], Assignment]:
    """Return a function that takes a driver's next trial; there must be one."""

    def take_next(driver: Driver) -> Assignment:
        assignment = driver.next()
        assert assignment is not None
        return assignment

    return take_next


@pytest.fixture
def start_search(
    make_study: Callable[..., Study],
    make_driver: Callable[..., Driver],
    hand_out: Callable[[Driver], Assignment],
) -> Callable[..., tuple[Study, Driver]]:
    """Return a function that makes a study and its driver, and hands out the first trials.

    It hands out one for every slot unless it is told how many. Arguments that it does not name are
    those of `make_study`.
    """

    def start(
        slots: int = 1,
        handed_out: int | None = None,
        observers: Sequence[Observer] = (),
        **changes: Any,
    ) -> tuple[Study, Driver]:
        study = make_study(**changes)
        driver = make_driver(study, slots=slots, observers=observers)
        for _ in range(slots if handed_out is None else handed_out):
            hand_out(driver)
        return study, driver

    return start


@pytest.fixture(scope="session")
def train(
    make_epoch: Callable[..., EpochMetrics],
) -> Callable[[Driver, int, dict[int, float]], list[str]]:
    """Return a function that tells a driver of a trial's epochs: the accuracy of each, by number.

    It returns what the driver answers to each: "continue" or "stop".
    """

    def tell(driver: Driver, trial: int, accuracies: dict[int, float]) -> list[str]:
        return [
            driver.on_epoch(trial, make_epoch(epoch, accuracy)).action
            for epoch, accuracy in accuracies.items()
        ]

    return tell


@pytest.fixture
def heard() -> list[tuple[Any, ...]]:
    """Return the list of all that `listener` was told."""
    return []


@pytest.fixture
def listener(heard: list[tuple[Any, ...]]) -> Observer:
    """Return an observer of a search that writes down what it is told."""

    class Listener:
        def started(self, assignment: Assignment, origin: str) -> None:
            heard.append(("started", assignment.trial, assignment.attempt, origin))

        def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
            heard.append(("epoch", trial, metrics.epoch, decision and decision.action))

        def ended(self, trial: int, outcome: str, reason: str) -> None:
            heard.append(("ended", trial, outcome))

        def failed(self, trial: int, failure: str, reason: str) -> None:
            heard.append(("failed", trial, failure))

        def stopping(self, reason: str) -> None:
            heard.append(("stopping",))

    return Listener()
