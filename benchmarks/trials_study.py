"""The study whose trials `trials.py` counts: one configuration, trained to its end every time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from model.config import Configuration
from search.config.config import StudyConfig

NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"filters": (16, 32, 64), "head": "flatten", "dropout": 0.2},
    "laptop": {"filters": (32, 64, 128), "head": "average", "dropout": 0.0},
}
"""What is trained: of residual blocks with two convolutions of 3x3. `small` is the point that the
preset `quickstart` begins with, `laptop` of the size that the preset `laptop` finds."""
LEARNING_RATE = 0.4


def study_config(
    network: str, *, trials: int, epochs: int, images: int, seed: int, data: str
) -> StudyConfig:
    """Return a study of `trials` trials of one network; a tenth of `images` are held out.

    A study trains no configuration twice, so the trials' learning rates differ in the ninth digit.
    """
    plain = NETWORKS[network]
    values = {f"filters_{i}": width for i, width in enumerate(plain["filters"], start=1)}
    rates = [LEARNING_RATE * (1 + 1e-9 * trial) for trial in range(trials)]
    return StudyConfig.model_validate(
        {
            "study": "trials",
            "seed": seed,
            "max_epochs": epochs,
            "data": {
                "source": data,
                "train_images": images,
                "validation_images": images // 10,
                "synthetic_train": max(20, images),
            },
            "space": {
                "num_blocks": len(plain["filters"]),
                "filters": {"choice": sorted(set(plain["filters"])), "per_block": True},
                "kernel_size": 3,
                "convs_per_block": 2,
                "residual": True,
                "head": plain["head"],
                "dropout": plain["dropout"],
                "learning_rate": {"float": [LEARNING_RATE, rates[-1] * (1 + 1e-9)]},
                "weight_decay": 5e-4,
                "batch_size": 256,
                "flip": True,
            },
            "baselines": [],
            "points": [values | {"learning_rate": rate} for rate in rates],
            "asha": {"enabled": False},
            "budget": {"trials": trials},
            "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
        }
    )


def configuration_of(config: StudyConfig) -> Configuration:
    """Return the configuration of a study's first trial."""
    return config.search_space().configuration(config.points[0])


def note(place: str, trial: int) -> None:
    """Add a trial, this process and the time to a file, a JSON list on a line of its own."""
    with Path(place).open("a", encoding="ascii") as file:
        file.write(f"{json.dumps([trial, os.getpid(), time.time()])}\n")
