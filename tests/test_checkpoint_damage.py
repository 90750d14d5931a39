"""A damaged checkpoint costs a trial an epoch or two, never its result; and it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.images import LabelledImages
from data.source import DataSpec, load_train
from model.checkpoint import load_checkpoint
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.schedule import optimizer_tensors
from search.drive.checkpoints import checkpoint_path, found
from search.drive.shelf import FolderShelf
from search.engine.bridge import as_config
from search.engine.trial import TrialWorker
from search.prune.assignment import Assignment

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCHS = 5
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return load_train(DataSpec(source="synthetic", synthetic_train=150, synthetic_test=20))


class Trial:
    """One trial, trained in this process as a worker trains it."""

    def __init__(self, folder: Path, images: LabelledImages, learning_rate: float = 0.05) -> None:
        recipe = TrainingConfig(epochs=EPOCHS, learning_rate=learning_rate, batch_size=25)
        self.configuration = Configuration(network=NetworkConfig(filters=(3,)), training=recipe)
        self.folder, self._images = folder / "t0000", images
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reports: list[dict[str, Any]] = []

    def train(self, until: int, *, recorded: int = 0) -> None:
        """Train on, in a new worker, from where `recorded` epochs were told to the driver."""
        assignment = Assignment(
            trial=0,
            attempt=1,
            configuration=self.configuration,
            seed=3,
            folder=self.folder,
            from_epoch=recorded,
        )
        worker = TrialWorker.__new__(TrialWorker)  # Ray's own __init__ is for its processes
        train, validation = self._images.take(range(100)), self._images.take(range(100, 150))
        pixels = ((70.0,), (80.0,))
        worker.setup(
            as_config(assignment),
            train=train,
            validation=validation,
            pixels=pixels,
            shelf=FolderShelf(self.folder.parent),
        )
        self.reports = [worker.step()]
        while self.reports[-1]["failure"] == "" and self.reports[-1]["metrics"]["epoch"] < until:
            self.reports.append(worker.step())

    @property
    def told(self) -> list[int]:
        assert not any(report["failure"] for report in self.reports), self.reports[-1]["failure"]
        return [report["metrics"]["epoch"] for report in self.reports]

    @property
    def remark(self) -> str:
        (remark,) = {report["remark"] for report in self.reports}
        return str(remark)

    def state(self, epoch: int = EPOCHS) -> dict[str, torch.Tensor]:
        """Return all tensors of a checkpoint, those of the optimizer too."""
        training, _ = load_checkpoint(checkpoint_path(self.folder, epoch), "cpu")
        return training.model.state_dict() | optimizer_tensors(training.optimizer)

    def curve(self) -> list[tuple[float, ...]]:
        """Return the metrics of all epochs, without what depends on the clock."""
        _, written = load_checkpoint(checkpoint_path(self.folder, EPOCHS), "cpu")
        names = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
        return [tuple(row[name] for name in names) for row in written["epochs"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: LabelledImages) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("undisturbed"), images)
    trial.train(EPOCHS)
    return trial


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1  # in a tensor: a valid file of other weights
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_directory(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def _put_an_older_one(path: Path) -> None:
    path.write_bytes(checkpoint_path(path.parent, 2).read_bytes())


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_truncate, "is not a whole safetensors file"),
        (_flip, "is damaged"),
        (_empty, "is not a whole safetensors file"),
        (_make_directory, ""),
        (_put_an_older_one, "is of another training"),
        (_remove, "is gone"),
    ],
)
def test_a_trial_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(
    harm: Harm, said: str, tmp_path: Path, images: LabelledImages, undisturbed: Trial
) -> None:
    trial = Trial(tmp_path, images)
    trial.train(3)
    damaged = checkpoint_path(trial.folder, 3)
    harm(damaged)
    trial.train(EPOCHS, recorded=3)
    assert trial.told == [3, 4, 5]  # the third again
    assert str(damaged) in trial.remark
    assert said in trial.remark
    assert trial.remark.endswith("; it went on from epoch 2")
    assert "\n" not in trial.remark
    _assert_same(trial, undisturbed)


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(
    tmp_path: Path, images: LabelledImages, undisturbed: Trial
) -> None:
    trial, other = Trial(tmp_path / "a", images), Trial(tmp_path / "b", images, learning_rate=0.5)
    trial.train(3)
    other.train(3)
    checkpoint_path(other.folder, 3).replace(checkpoint_path(trial.folder, 3))
    trial.train(EPOCHS, recorded=3)
    assert trial.told == [3, 4, 5]
    assert f"{checkpoint_path(trial.folder, 3)} is of another training" in trial.remark
    _assert_same(trial, undisturbed)


def test_where_none_is_left_the_trial_starts_again_and_the_damaged_ones_are_not_kept(
    tmp_path: Path, images: LabelledImages, undisturbed: Trial
) -> None:
    trial = Trial(tmp_path, images)
    trial.train(4)
    for _, path in found(trial.folder):
        _flip(path)
    trial.train(2, recorded=4)
    assert trial.told == [1, 2]
    assert trial.remark.count("is damaged") >= 2
    assert trial.remark.endswith("; it started again from its first epoch")
    # Kept, they would count as the newest two, and those written now would be deleted.
    assert [epoch for epoch, _ in found(trial.folder)] == [2, 1]
    trial.train(EPOCHS, recorded=4)
    assert trial.told == [3, 4, 5]
    _assert_same(trial, undisturbed)


def test_checkpoints_that_the_quota_took_cost_the_way_from_the_first_epoch(
    tmp_path: Path, images: LabelledImages, undisturbed: Trial
) -> None:
    trial = Trial(tmp_path, images)
    trial.train(3)
    for _, path in found(trial.folder):
        path.unlink()
    trial.train(EPOCHS, recorded=3)
    assert trial.told == [1, 2, 3, 4, 5]
    assert trial.remark == (
        f"no checkpoint is left in {trial.folder}; it started again from its first epoch"
    )
    _assert_same(trial, undisturbed)


def test_a_write_that_was_cut_off_is_no_checkpoint(
    tmp_path: Path, images: LabelledImages, undisturbed: Trial
) -> None:
    trial = Trial(tmp_path, images)
    trial.train(3)
    part = trial.folder / f".e0004.safetensors.{'0' * 32}.part"
    part.write_bytes(checkpoint_path(trial.folder, 3).read_bytes()[:1000])
    trial.train(EPOCHS, recorded=3)
    assert (trial.told, trial.remark) == ([4, 5], "")
    _assert_same(trial, undisturbed)


def _assert_same(trial: Trial, undisturbed: Trial) -> None:
    """Compare bit for bit."""
    state, expected = trial.state(), undisturbed.state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert trial.curve() == undisturbed.curve()
