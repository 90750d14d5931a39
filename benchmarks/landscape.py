"""Searches without training on landscapes whose truth is known, for what is said of them.

An accuracy is what the landscape says of a configuration, on a curve that rises, with noise. The
driver, the record and the sampler are those of a study.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.images import ImageShape
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.prune.settle import settle
from search.record.lineage import Lineage
from search.record.study import Study, create
from search.seeds import derive_seed

Landscape = Callable[[Mapping[str, Any]], float | None]
"""Last accuracy of a configuration (`network` and `training` in one); None where it diverges."""

SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)
FINGERPRINT = "f" * 64
"""Of the images that are not there, and of their split."""
NOISE = 0.004
SPACE: dict[str, Any] = {
    "filters": 16,
    "learning_rate": {"float": [0.01, 1.0], "log": True},
    "momentum": {"float": [0.5, 0.95]},
    "weight_decay": {"float": [0.0001, 0.1], "log": True},
    "dropout": {"float": [0.0, 0.5], "step": 0.1},
    "batch_size": {"choice": [32, 64, 128, 256]},
    "schedule": {"choice": ["one-cycle", "cosine", "constant"]},
    "flip": {"choice": [False, True]},
}
_DATA = {
    "name": "drawn",
    "classes": [f"class {n}" for n in range(10)],
    **{"channels": 1, "height": 28, "width": 28},
    "fingerprint": FINGERPRINT,
}


def settings(seed: int = 0, **changes: Any) -> StudyConfig:
    """Return the configuration of a study on `SPACE`."""
    content: dict[str, Any] = {
        "study": "land",
        "seed": seed,
        "max_epochs": 9,
        "data": {"source": "synthetic"},
        "space": SPACE,
        "baselines": [],
        "asha": {"grace_epochs": 1, "reduction_factor": 3},
        "budget": {"trials": 100},
    }
    return settle(StudyConfig.model_validate(content | changes), slots=1)


def searched(
    folder: Path,
    config: StudyConfig,
    landscape: Landscape,
    *,
    lineage: Lineage | None = None,
    until: float = math.inf,
) -> tuple[Study, int]:
    """Search to the end of the budget, or until a trial is truly so good at its last epoch.

    Returns the study and the epochs it took.

    Raises:
        StudyError: The folder is taken.
    """
    study = create(config, folder, facts={"data": _DATA}, environment={}, lineage=lineage)
    return study, go_on(study, landscape, until=until)


def go_on(study: Study, landscape: Landscape, *, until: float = math.inf, most: int = 10**9) -> int:
    """Search on, for so many epochs at most; return how many it took."""
    driver, spent = Driver(study, shape=SHAPE, slots=1), 0
    whole = study.config.max_epochs
    while (assignment := driver.next()) is not None:
        plain = assignment.configuration.to_dict()
        last = landscape(plain["network"] | plain["training"])
        epoch, action = assignment.from_epoch, "continue"
        while action == "continue":
            if spent == most:
                return spent
            epoch, spent = epoch + 1, spent + 1
            luck = derive_seed(study.config.seed, epoch, assignment.configuration.key())
            noise = NOISE * random.Random(luck).gauss(0.0, 1.0)
            accuracy = None if last is None else last * (1 - 0.5 * 0.55**epoch) + noise
            action = driver.on_epoch(assignment.trial, _metrics(epoch, accuracy)).action
            if last is not None and last >= until and epoch == whole:
                return spent
    return spent


def _metrics(epoch: int, accuracy: float | None) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        train_loss=math.nan if accuracy is None else 0.5,
        train_accuracy=0.8,
        val_loss=0.6,
        val_accuracy=0.1 if accuracy is None else min(max(accuracy, 0.0), 1.0),
        learning_rate=0.1,
        images_per_second=1000.0,
        seconds=1.5,
    )
