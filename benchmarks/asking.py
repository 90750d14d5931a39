"""How long a proposal takes as a study grows: the driver on its database, training replaced.

    python benchmarks/asking.py --trials 2000 --slots 16 --json OUT

The preset `cluster`'s space and settings, with accuracies made up from the configuration. Ask is
the sampler's own time; handing out is all of `Driver.next`, with every write to the record; an
epoch is all of `Driver.on_epoch`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

import numpy as np
from rich.console import Console
from rich.table import Table

from data.images import ImageShape
from model.config import Configuration
from model.train import EpochMetrics
from search.config.config_file import load_config
from search.drive.driver import Driver
from search.propose.sampler import ASK_SECONDS
from search.prune.assignment import Assignment
from search.prune.settle import settle
from search.record.study import Study, create
from search.seeds import derive_seed

SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)


def main() -> None:
    """Search without training and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--kind", default="fidelity", choices=["fidelity", "tpe", "random"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    overrides = [f"budget.trials={options.trials}", f"sampler.kind={options.kind}"]
    config = settle(load_config(None, preset="cluster", overrides=overrides), slots=options.slots)
    with tempfile.TemporaryDirectory(prefix="asking-") as folder:
        study = create(config, Path(folder) / "study", facts={}, environment={})
        begun = time.perf_counter()
        handing, epochs = search_without_training(study, options.slots)
        seconds = time.perf_counter() - begun
        frozen = study.optuna.get_trials(deepcopy=False)
    asks = np.array([trial.user_attrs[ASK_SECONDS] for trial in frozen])
    keys = [trial.user_attrs.get("key") for trial in frozen]
    last = asks[-max(1, len(asks) // 10) :]
    answer = {
        "kind": options.kind,
        "trials": len(frozen),
        "epochs": len(epochs),
        "duplicates": 1 - len(set(keys)) / len(keys),
        "ask_p95_ms": 1000 * float(np.quantile(last, 0.95)),
        "ask_median_ms": 1000 * float(np.median(last)),
        "ask_share": float(asks.sum()) / seconds,
        "next_p95_ms": 1000 * float(np.quantile(handing[-len(last) :], 0.95)),
        "epoch_median_ms": 1000 * float(np.median(epochs)),
        "seconds": seconds,
    }
    table = Table(title=f"{len(frozen)} trials, the last tenth of them")
    for name, value in answer.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def search_without_training(
    study: Study, slots: int, *, trials: int | None = None
) -> tuple[list[float], list[float]]:
    """Search to the end of the budget, or until there are so many trials, with made-up epochs.

    Returns the seconds of every hand-out and of every epoch. Trials in flight stay so.
    """
    driver = Driver(study, shape=SHAPE, slots=slots)
    handing: list[float] = []
    epochs: list[float] = []
    busy: deque[tuple[Assignment, int]] = deque()
    while True:
        while True:
            begun = time.perf_counter()
            assignment = driver.next()
            if assignment is None:
                break
            if trials is not None and assignment.trial >= trials:
                return handing, epochs
            handing.append(time.perf_counter() - begun)
            busy.append((assignment, assignment.from_epoch))
        if not busy:
            return handing, epochs
        assignment, done = busy.popleft()
        metrics = _epoch(assignment.configuration, done + 1)
        begun = time.perf_counter()
        verdict = driver.on_epoch(assignment.trial, metrics)
        epochs.append(time.perf_counter() - begun)
        if verdict.action == "continue":
            busy.append((assignment, done + 1))


def _epoch(configuration: Configuration, epoch: int) -> EpochMetrics:
    """Return a made-up epoch: middling rates and wide networks are good; some noise."""
    rate = math.log10(configuration.training.learning_rate)
    width = math.log2(sum(configuration.network.filters))
    noise = derive_seed(epoch, configuration.key()) / 2**31
    good = 0.9 - 0.05 * abs(rate + 0.7) + 0.004 * width
    return EpochMetrics(
        epoch=epoch,
        train_loss=0.5,
        train_accuracy=0.8,
        val_loss=0.6,
        val_accuracy=good * (1 - 0.5**epoch) + 0.01 * noise,
        learning_rate=0.1,
        images_per_second=1000.0,
        seconds=1.0,
    )


if __name__ == "__main__":
    main()
