"""After the search: train the best configuration, and the baselines, on all training images.

Fresh seeds, the same schedule, in worker processes of this machine; no Ray. Test images are not
touched here: see `search.final.look`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.plain_file import open_plain
from model.config import Configuration
from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only
from search.machine.slots import Slots, pick_device, plan_slots, worker_environment
from search.record.final_metrics import write_metrics
from search.record.study import Study, StudyError, Trial, best_of
from search.seeds import derive_seed

Progress = Callable[[str, int, EpochMetrics], None]
"""Called with a model's name, its epochs in all, and each epoch's metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalModel:
    """One network to retrain from scratch."""

    name: str
    """Folder under final/: `winner-s0`, `seed-32-s0`."""
    group: str
    """`winner`, or the baseline's name; models of a group differ in the seed only."""
    configuration: Configuration
    epochs: int
    """Epochs trained; the schedule may be longer."""
    seed: int


def best_length(trial: Trial) -> int:
    """Return for how many epochs a configuration is retrained.

    The best epoch of a trial that ran to the end of its schedule; the whole schedule for one that
    was stopped, since its later epochs are unknown.
    """
    if trial.outcome == "complete" and trial.best_epoch is not None:
        return trial.best_epoch
    return trial.max_epochs


def plan_final_models(study: Study) -> list[FinalModel]:
    """Return the networks to retrain: the best configuration and the baselines, by seed.

    Raises:
        StudyError: No trial has a value yet.
    """
    config = study.config
    best = best_of(study.trials())
    if best is None or best.configuration is None:
        raise StudyError(f"{study.name} has no trial with a value yet; run the search first")
    winner = Configuration.from_dict(best.configuration)
    groups = [("winner", winner, best_length(best), config.final.seeds)]
    groups += [
        (name, configuration, config.max_epochs, config.final.baseline_seeds)
        for name, configuration in config.baseline_configurations().items()
    ]
    return [
        FinalModel(
            name=f"{group}-s{index}",
            group=group,
            configuration=configuration,
            epochs=epochs,
            seed=derive_seed(config.seed, "final", group, index),
        )
        for group, configuration, epochs, seeds in groups
        for index in range(seeds)
    ]


def retrain(study: Study, folder: Path, fingerprint: str, progress: Progress) -> None:
    """Train every final model and save it under `folder`, with metrics.json beside them.

    A training that diverges is recorded and left out.

    Raises:
        StudyError: There is nothing to retrain, the images are not those of `fingerprint`, every
            winner diverged, or a worker process died.
    """
    models = plan_final_models(study)
    best = best_of(study.trials())
    assert best is not None
    slots = plan_slots(study.config.resources)
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    diverged: list[dict[str, Any]] = []
    try:
        # Closed at once where this is broken off: its processes are ended then.
        with closing(_train_all(study.config, models, folder, slots, progress)) as outcomes:
            for model, outcome in outcomes:
                if outcome.pop("fingerprint") != fingerprint:
                    raise StudyError("the images changed while they were trained on; retrain again")
                if "diverged_at" in outcome:
                    diverged.append({"name": model.name, "epoch": outcome["diverged_at"]})
                    continue
                described: dict[str, Any] = {"name": model.name, "group": model.group}
                described |= {
                    "seed": model.seed,
                    "epochs": model.epochs,
                    "configuration": model.configuration.to_dict(),
                }
                rows.append(described | outcome)
    except BrokenProcessPool:
        raise StudyError(
            "a retraining process died (out of memory?); give it fewer slots with"
            " --set resources.max_concurrent=1, or free memory, and retrain"
        ) from None
    if not any(row["group"] == "winner" for row in rows):
        raise StudyError(f"every seed of {best.name} diverged: {diverged}; search on with resume")
    order = [model.name for model in models]
    rows.sort(key=lambda row: order.index(row["name"]))
    content = {"winner_trial": best.name, "models": rows, "diverged": diverged}
    write_metrics(folder, content)


def sha256(path: Path) -> str:
    """Return a file's SHA-256, or an empty string where it cannot be read."""
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _train_all(
    config: StudyConfig, models: list[FinalModel], folder: Path, slots: Slots, progress: Progress
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    os.environ |= worker_environment()
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    longest = {model.name: model.epochs for model in models}
    workers = min(slots.count, len(models))
    with ProcessPoolExecutor(workers, context, _prepare, (config.data, events, slots)) as pool:
        try:
            with signals_to_parent_only():
                futures: dict[Future[dict[str, Any]], FinalModel] = {
                    pool.submit(_train_one, model, folder / model.name): model for model in models
                }
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=0.2)
                _drain(events, longest, progress)
                for future in finished:
                    yield futures[future], future.result()
        except BaseException:
            # Queued models would still be trained, and waited for, by processes left alive.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _drain(events, longest, progress)


def _drain(events: Any, longest: dict[str, int], progress: Progress) -> None:
    while True:
        try:
            name, metrics = events.get_nowait()
        except queue.Empty:
            return
        progress(name, longest[name], metrics)


_worker: dict[str, Any] = {}  # of one worker process: its images and the way to its parent


def _prepare(section: DataSection, events: Any, slots: Slots) -> None:
    end_with_parent()
    import torch

    from data.loader import as_tensors
    from model.cnn import pixel_statistics
    from search.record.dataset import load_images

    torch.set_num_threads(slots.threads)
    images = load_images(section)
    # Spawned processes are numbered from 1: several GPUs take them in turn.
    device = pick_device(slots.gpus, multiprocessing.current_process()._identity[-1])
    tensors = as_tensors(images.everything, device)
    _worker.update(
        events=events,
        device=device,
        classes=images.everything.classes,
        shape=images.everything.shape,
        fingerprint=images.fingerprint,
        tensors=tensors,
        pixels=pixel_statistics(tensors[0]),
    )


def _train_one(model: FinalModel, folder: Path) -> dict[str, Any]:
    import math

    from model.checkpoint import save_model
    from model.train import Training, fit

    mean, std = _worker["pixels"]
    training = Training.start(
        model.configuration, _worker["shape"], mean, std, model.seed, _worker["device"]
    )
    metrics = None
    seconds = 0.0
    for metrics in fit(training, _worker["tensors"], None, until=model.epochs):
        if not math.isfinite(metrics.train_loss):
            return {"diverged_at": metrics.epoch, "fingerprint": _worker["fingerprint"]}
        seconds += metrics.seconds
        _worker["events"].put((model.name, metrics))
    assert metrics is not None
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    save_model(training, path, classes=_worker["classes"], metrics=asdict(metrics))
    return {
        "model_sha256": sha256(path),
        "fingerprint": _worker["fingerprint"],
        "train_accuracy": metrics.train_accuracy,
        "train_loss": metrics.train_loss,
        "seconds": seconds,
    }
