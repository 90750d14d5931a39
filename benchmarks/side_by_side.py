"""Trainings of `model.train.fit` side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.epoch_images import trained_images
from benchmarks.refusals import check_device
from data.source import load_test
from model.config import Configuration
from search.config.config import DataSection
from search.machine.end_with_parent import end_with_parent
from search.machine.slots import worker_environment
from search.record.dataset import load_images

On = Literal["validation", "test"]


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
        ValueError: There is no such device here.
    """
    # Here first: what a worker lacks ends in its traceback, not in one line.
    check_device(device)
    load_images(data)
    if on == "test":
        load_test(data.spec())
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
    seen = trained_images(len(train[0]), recipe.batch_size)
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
