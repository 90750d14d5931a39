"""Accuracy against parameters and seconds: named recipes, several seeds, beside published figures.

    python benchmarks/accuracy.py --recipes tiny laptop --seeds 5 --json OUT --figure OUT.png

Every recipe is trained by `model.train.fit`, seeds side by side in processes of their own. By
default on the split that a study has, measured on its validation images; `--on test` trains on all
training images and opens the test images, which is a look at them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

if not __package__:
    # Run as a script: this folder is in the path's first place, where `search` would be that file.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.accuracy_figure import FASHION, PUBLISHED, draw_accuracy, print_accuracy
from data.images import DataError
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.geometry import network_cost
from search.config.baselines import BASELINES
from search.config.config import DataSection
from search.machine.end_with_parent import end_with_parent
from search.machine.environment import describe_environment
from search.machine.slots import worker_environment
from search.record.dataset import load_images

On = Literal["validation", "test"]

_MUON = TrainingConfig(
    epochs=24,
    optimizer="muon",
    learning_rate=0.4,
    weight_decay=5e-4,
    ema=0.99,
    flip=True,
    alternate=True,
    shift=1,
    erase=0.25,
    label_smoothing=0.1,
)
RECIPES: dict[str, Configuration] = {
    "tiny": Configuration(
        network=NetworkConfig(
            filters=(20, 40, 64), convs_per_block=2, residual=True, head="flatten", dropout=0.1
        ),
        training=_MUON,
    ),
    "quickstart": Configuration(
        network=NetworkConfig(
            filters=(16, 32, 64), convs_per_block=2, residual=True, head="flatten", dropout=0.2
        ),
        training=TrainingConfig(
            epochs=9, learning_rate=0.4, weight_decay=5e-4, ema=0.99, flip=True, alternate=True
        ),
    ),
    "laptop": Configuration(
        network=NetworkConfig(
            filters=(32, 64, 128), convs_per_block=2, residual=True, head="flatten", dropout=0.2
        ),
        training=_MUON,
    ),
    "notebook": BASELINES["seed-64-dropout"].configuration(epochs=20),
}
"""What can be named on the command line: a network and how it is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training."""

    name: str
    """Of the recipe, or of the change to it."""
    configuration: Configuration
    seed: int


def train_all(
    jobs: Sequence[Job],
    data: DataSection,
    *,
    on: On = "validation",
    processes: int = 2,
    threads: int = 1,
    device: str = "cpu",
) -> Iterator[dict[str, Any]]:
    """Train every job in spawned processes and yield what it gave, in the order they end.

    An item has the job's `name` and `seed`; `accuracy` and `loss` on the `on` images after the last
    epoch; `flip_accuracy`, of the mean logits of each image and its mirror image; `train_loss`; and
    `seconds`, of the training steps alone.

    Raises:
        DataError: The data cannot be had, or are fewer than asked for.
    """
    load_images(data)  # here first: what a worker lacks ends in its traceback, not in one line
    os.environ |= worker_environment()
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    given = (data, on, threads, device)
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _prepare, given) as pool:
        futures = [pool.submit(_train, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: dict[str, Any] = {}  # of one process of the pool: its images, as tensors


def _prepare(data: DataSection, on: On, threads: int, device: str) -> None:
    end_with_parent()
    import torch

    from data.loader import as_tensors
    from data.source import load_test
    from model.cnn import pixel_statistics

    torch.set_num_threads(threads)
    images = load_images(data)
    train = images.train if on == "validation" else images.everything
    held_out = images.validation if on == "validation" else load_test(data.spec())
    tensors = as_tensors(train, device)
    _worker["data"] = tensors, as_tensors(held_out, device)
    _worker["about"] = train.shape, *pixel_statistics(tensors[0]), train.classes
    _worker["device"] = device


def _train(job: Job) -> dict[str, Any]:
    from model.evaluate import evaluate_logits, predict_logits
    from model.train import Training, fit

    (train, held_out), device = _worker["data"], _worker["device"]
    shape, mean, std, classes = _worker["about"]
    begun = time.perf_counter()
    training = Training.start(job.configuration, shape, mean, std, job.seed, device)
    recipe = job.configuration.training
    # Measured once, after the last epoch: nothing is chosen by what came before.
    metrics = list(fit(training, train, None, until=recipe.epochs - 1))
    metrics += fit(training, train, held_out)
    last = metrics[-1]
    images, labels = held_out
    logits = predict_logits(training.network, images)
    logits += predict_logits(training.network, images.flip(-1))
    both = evaluate_logits(logits / np.float32(2), labels.cpu().numpy(), classes)
    seen = len(train[0]) // recipe.batch_size * recipe.batch_size or len(train[0])
    return {
        "name": job.name,
        "seed": job.seed,
        "accuracy": last.val_accuracy,
        "loss": last.val_loss,
        "flip_accuracy": both.accuracy,
        "train_loss": last.train_loss,
        "seconds": sum(seen / epoch.images_per_second for epoch in metrics),
        "wall_seconds": time.perf_counter() - begun,
    }


def summary(
    rows: Sequence[dict[str, Any]], recipes: dict[str, Configuration]
) -> dict[str, dict[str, Any]]:
    """Return, for each recipe that was trained, its cost and its accuracies over the seeds."""
    found = {}
    for name, configuration in recipes.items():
        mine = [row for row in rows if row["name"] == name]
        if not mine:
            continue
        cost = network_cost(configuration.network, FASHION)
        found[name] = {
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "epochs": configuration.training.epochs,
            "seeds": len(mine),
            "seconds_mean": float(np.mean([row["seconds"] for row in mine])),
            **_over_seeds("accuracy", mine),
            **_over_seeds("flip_accuracy", mine),
            "configuration": configuration.to_dict(),
        }
    return found


def _over_seeds(key: str, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return mean, standard deviation and half of the mean's 95 % interval (Student)."""
    values = np.array([row[key] for row in rows])
    if len(values) < 2:
        return {f"{key}_mean": float(values.mean()), f"{key}_sd": None, f"{key}_ci95": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {
        f"{key}_mean": float(values.mean()),
        f"{key}_sd": float(values.std(ddof=1)),
        f"{key}_ci95": half,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(
        prog="python benchmarks/accuracy.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    command.add_argument("--seeds", type=int, default=3, help="how many")
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--epochs", type=int, help="of all; default: the recipes'")
    command.add_argument("--on", choices=("validation", "test"), default="validation")
    command.add_argument("--images", type=int, help="training images, before the split")
    command.add_argument("--validation-images", type=int, default=6000)
    command.add_argument("--data", choices=("fashion-mnist", "synthetic"), default="fashion-mnist")
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--threads", type=int, default=1, help="of one process")
    command.add_argument("--device", default="cpu")
    command.add_argument("--json", type=Path, help="where to write the figures, after every seed")
    command.add_argument("--figure", type=Path, metavar="OUT.png")
    options = command.parse_args(arguments)
    if min(options.seeds, options.processes, options.threads) < 1:
        command.error("--seeds, --processes and --threads must be at least 1")
    if options.on == "test":
        told = "this opens the test images: choose nothing by what it shows"
        print(told, file=sys.stderr, flush=True)
    try:
        recipes = {name: _lasting(RECIPES[name], options.epochs) for name in options.recipes}
        rows = _train_recipes(recipes, options)
    except (ValueError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    found = summary(rows, recipes)
    # In a file as on a wide terminal.
    print_accuracy(found, vars(options), Console(width=max(120, Console().width)))
    if options.figure is not None:
        draw_accuracy(options.figure, found, on=options.on)
    return 0


def _lasting(recipe: Configuration, epochs: int | None) -> Configuration:
    if epochs is None:
        return recipe
    return replace(recipe, training=replace(recipe.training, epochs=epochs))


def _train_recipes(
    recipes: dict[str, Configuration], options: argparse.Namespace
) -> list[dict[str, Any]]:
    jobs = [
        Job(name=name, configuration=configuration, seed=options.first_seed + seed)
        for seed in range(options.seeds)
        for name, configuration in recipes.items()
    ]
    data = DataSection(
        source=options.data,
        train_images=options.images,
        validation_images=options.validation_images,
    )
    conditions = {name: str(value) for name, value in vars(options).items()}
    conditions |= describe_environment(Path(__file__).parent)
    rows: list[dict[str, Any]] = []
    for row in train_all(
        jobs,
        data,
        on=options.on,
        processes=options.processes,
        threads=options.threads,
        device=options.device,
    ):
        rows.append(row)
        print(
            f"{len(rows)}/{len(jobs)} {row['name']} seed {row['seed']}: {row['accuracy']:.4f}"
            f" (flip {row['flip_accuracy']:.4f}) in {row['seconds']:.0f} s",
            flush=True,
        )
        if options.json is not None:
            answer = {"conditions": conditions, "recipes": summary(rows, recipes), "rows": rows}
            answer["published"] = [asdict(published) for published in PUBLISHED]
            options.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    sys.exit(main())
