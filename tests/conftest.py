"""Fixtures that several tests of the search share: a small study, and epochs without training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.images import ImageShape
from model.train import EpochMetrics
from search.config import StudyConfig
from search.settle import settle
from search.study import Study, create

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


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Undo what a training sets for its process: Hypothesis draws denormal numbers."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


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
