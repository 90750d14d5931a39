"""Measure what configurations cost on this machine, with all slots busy as in a study. No Ray.

One process a slot, started as `search.final.retrain` starts its own. Each takes the next
configuration, drives `model.train.fit` with it for its share of the time, and when none is left
goes on training until it is ended with the others: no slot is timed while another one idles.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data.images import LabelledImages
from model.config import Configuration
from search.machine.bench import Bench, Measured
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only
from search.machine.slots import Slots, pick_device, worker_environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a probe found."""

    measured: tuple[Measured, ...]
    failures: tuple[tuple[Configuration, str], ...]
    """Configurations that could not be trained, with the last line of the reason."""
    start_seconds: float
    """From the start of a process until it can train, all slots starting at once."""
    seconds: float
    """Time measured in, start and end left out."""

    def undisturbed(self) -> Probed:
        """Return what would have been found without other programs, for slots of one CPU thread."""
        measured = tuple(
            replace(
                found,
                train_per_second=found.train_per_second / found.cpu_share,
                score_per_second=found.score_per_second / found.cpu_share,
            )
            for found in self.measured
        )
        share = fmean(found.cpu_share for found in self.measured)
        return replace(self, measured=measured, start_seconds=self.start_seconds * share)


def probe(
    configurations: Sequence[Configuration],
    images: LabelledImages,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    slots: Slots,
    *,
    seconds: float,
    folder: Path,
) -> Probed:
    """Measure as many of the configurations as the time allows, in their order; always the first.

    Args:
        configurations: To measure; the first ones matter most.
        images: A part of the training images, for a few batches.
        pixels: Mean and standard deviation of the training pixels, one value a channel.
        slots: What is busy at a time.
        seconds: Time to measure for.
        folder: Where checkpoints are written, and removed.

    Raises:
        ValueError: A process died, or nothing could be measured.
    """
    os.environ |= worker_environment()
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    taken: Any = context.Value("i", 0)
    go = context.Event()
    began = time.monotonic()
    workers: list[Any] = [
        context.Process(
            target=_serve,
            args=(slot, slots, tuple(configurations), images, pixels, seconds, folder),
            kwargs={"taken": taken, "answers": answers, "go": go},
            daemon=True,
        )
        for slot in range(slots.count)
    ]
    measured: list[Measured] = []
    failures: list[tuple[Configuration, str]] = []
    try:
        with signals_to_parent_only():
            for worker in workers:
                worker.start()
        for _ in workers:
            _next(answers, workers)
        started = time.monotonic()
        go.set()
        idle = 0
        while idle < len(workers):
            answer = _next(answers, workers)
            if isinstance(answer, Measured):
                measured.append(answer)
            elif answer is None:
                idle += 1
            else:
                failures.append(answer)
        ended = time.monotonic()
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
    if not measured:
        raise ValueError(f"no configuration could be trained; the first one: {failures[0][1]}")
    return Probed(
        measured=tuple(measured),
        failures=tuple(failures),
        start_seconds=started - began,
        seconds=ended - started,
    )


def _next(answers: Any, workers: Sequence[Any]) -> Any:
    while True:
        try:
            return answers.get(timeout=1)
        except queue.Empty:
            if not all(worker.is_alive() for worker in workers):
                raise ValueError(
                    "a probing process died (out of memory?); give the study fewer slots with"
                    " --set resources.max_concurrent=1, or free memory"
                ) from None


def _serve(
    slot: int,
    slots: Slots,
    configurations: Sequence[Configuration],
    images: LabelledImages,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    seconds: float,
    folder: Path,
    *,
    taken: Any,
    answers: Any,
    go: Any,
) -> None:
    """Measure one configuration after the other in a process of its own, until it is ended."""
    end_with_parent()
    import torch

    from data.loader import as_tensors
    from model.train import Training

    torch.set_num_threads(slots.threads)
    device = pick_device(slots.gpus, slot)
    with suppress(Exception):  # told when it is measured
        # The first optimizer of a process imports for a second or two.
        Training.start(configurations[0], images.shape, *pixels, 0, device)
    bench = Bench(
        slot=slot,
        tensors=as_tensors(images, device),
        shape=images.shape,
        pixels=pixels,
        device=device,
        path=folder / f"slot-{slot}.safetensors",
    )
    answers.put("ready")
    go.wait()
    deadline = time.monotonic() + seconds
    share = seconds * slots.count / len(configurations)
    last = configurations[0]
    while True:
        with taken.get_lock():
            index, taken.value = taken.value, taken.value + 1
        if index >= len(configurations) or (index > 0 and time.monotonic() > deadline):
            break
        last = configurations[index]
        try:
            answers.put(bench.measure(last, share))
        except Exception as error:  # said of this configuration; the others are measured
            answers.put((last, f"{type(error).__name__}: {' '.join(str(error).split())}"))
    answers.put(None)
    while True:
        try:
            bench.measure(last, seconds)
        except Exception:  # said before
            time.sleep(seconds)
