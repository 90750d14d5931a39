"""Train networks after the search: in processes of this machine, or as tasks of a cluster."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import platform
import queue
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from data.images import ImageShape
from data.plain_file import open_plain
from model.config import Configuration
from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only
from search.machine.slots import Slots, pick_device, plan_slots, worker_environment
from search.record.dataset import StudyImages
from search.study_error import StudyError

if TYPE_CHECKING:
    from search.engine.cluster import Cluster

MODEL_FILE = "model.safetensors"
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
    held_out: int = 0
    """Images held out and measured on, in the race; 0: trained on everything, and kept."""
    split_seed: int = 0
    """Draws the images that are held out, stratified by class."""


def sha256(path: Path) -> str:
    """Return a file's SHA-256, or an empty string where it cannot be read."""
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def train_models(
    config: StudyConfig,
    models: list[FinalModel],
    folder: Path,
    images: StudyImages,
    progress: Progress,
    cluster: Cluster | None = None,
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    """Train networks side by side; yield each with its outcome; broken off, end its processes.

    An outcome has `diverged_at`, an epoch, or `seconds` and what is known of the model.

    Raises:
        StudyError: The images have changed since the study was begun, or a worker process died.
    """
    if cluster is None:
        trained = _train_here(config, models, folder, progress)
    else:
        trained = _train_there(cluster, config, models, folder, images, progress)
    try:
        with closing(trained) as outcomes:
            for model, outcome in outcomes:
                if outcome.pop("fingerprint") != images.fingerprint:
                    raise StudyError("the images changed while they were trained on; begin again")
                yield model, outcome
    except BrokenProcessPool:
        raise StudyError(
            "a training process died (out of memory?); give it fewer slots with"
            " --set resources.max_concurrent=1, or free memory, and go on with `resume`"
        ) from None


def _train_there(
    cluster: Cluster,
    config: StudyConfig,
    models: list[FinalModel],
    folder: Path,
    images: StudyImages,
    progress: Progress,
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    from search.engine.tasks import Again, spread

    slots = cluster.slot(config.resources)
    everything = [cluster.share(images.everything)]
    whole = images.everything.fingerprint()
    pieces = {m.name: (m, everything, whole, images.fingerprint, slots) for m in models}
    named = {model.name: model for model in models}
    seen = dict.fromkeys(named, 0)
    with closing(spread(cluster, train_final, pieces, slots)) as items:
        for name, item in items:
            if isinstance(item, EpochMetrics):
                if item.epoch > seen[name]:  # else one that a lost node had trained already
                    seen[name] = item.epoch
                    progress(name, named[name].epochs, item)
            elif not isinstance(item, Again):
                outcome, content = item
                if content:
                    (folder / name).mkdir(exist_ok=True)
                    (folder / name / MODEL_FILE).write_bytes(content)
                yield named[name], outcome


def train_final(
    model: FinalModel, images: list[Any], whole: str, fingerprint: str, slots: Slots
) -> Generator[EpochMetrics | tuple[dict[str, Any], bytes], None, None]:
    """Train one model on a node of a cluster: yield every epoch, then the outcome and its file."""
    import torch

    from data.loader import as_tensors
    from model.cnn import pixel_statistics
    from search.engine.trial import fetched

    torch.set_num_threads(slots.threads)
    everything, device = fetched(images), pick_device(slots.gpus)
    if everything.fingerprint() != whole:
        raise StudyError(f"the images that arrived at {platform.node()} are not those of the study")
    tensors = as_tensors(everything, device)
    bench = _Bench(
        device=device,
        classes=everything.classes,
        shape=everything.shape,
        fingerprint=fingerprint,
        tensors=tensors,
        pixels=pixel_statistics(tensors[0]),
    )
    with TemporaryDirectory(prefix="fashion-search-final-") as place:
        trained = Path(place) / "model"
        epochs = _train_one(bench, model, trained)
        outcome = yield from epochs
        content = (trained / MODEL_FILE).read_bytes() if trained.exists() else b""
    yield outcome, content


def _train_here(
    config: StudyConfig, models: list[FinalModel], folder: Path, progress: Progress
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    slots = plan_slots(config.resources)
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
                    pool.submit(_train_in_pool, model, folder / model.name): model
                    for model in models
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """What a worker process trains with."""

    device: Any
    classes: tuple[str, ...]
    shape: ImageShape
    fingerprint: str
    tensors: Any
    pixels: tuple[tuple[float, ...], tuple[float, ...]]


_worker: dict[str, Any] = {}  # of one process of the pool: its bench and the way to its parent


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
    _worker["events"] = events
    _worker["bench"] = _Bench(
        device=device,
        classes=images.everything.classes,
        shape=images.everything.shape,
        fingerprint=images.fingerprint,
        tensors=tensors,
        pixels=pixel_statistics(tensors[0]),
    )


def _train_in_pool(model: FinalModel, folder: Path) -> dict[str, Any]:
    epochs = _train_one(_worker["bench"], model, folder)
    while True:
        try:
            metrics = next(epochs)
        except StopIteration as end:
            outcome: dict[str, Any] = end.value
            return outcome
        _worker["events"].put((model.name, metrics))


def _redraw(bench: _Bench, model: FinalModel) -> tuple[Any, Any, Any]:
    """Return a part to train on, the rest to measure on, and the pixel statistics of the first."""
    import torch

    from data.split import stratified_split
    from model.cnn import pixel_statistics

    pixels, labels = bench.tensors
    parts = stratified_split(labels.cpu().numpy(), model.held_out, model.split_seed)
    train, validation = (
        (pixels[index], labels[index])
        for index in (torch.from_numpy(part).to(pixels.device) for part in parts)
    )
    return train, validation, pixel_statistics(train[0])


def _train_one(
    bench: _Bench, model: FinalModel, folder: Path
) -> Generator[EpochMetrics, None, dict[str, Any]]:
    from model.checkpoint import save_model
    from model.train import Training, fit

    images, validation, (mean, std) = bench.tensors, None, bench.pixels
    if model.held_out:
        images, validation, (mean, std) = _redraw(bench, model)
    training = Training.start(model.configuration, bench.shape, mean, std, model.seed, bench.device)
    metrics = None
    seconds = 0.0
    for metrics in fit(training, images, validation, until=model.epochs):
        if not math.isfinite(metrics.train_loss):
            return {"diverged_at": metrics.epoch, "fingerprint": bench.fingerprint}
        seconds += metrics.seconds
        yield metrics
    assert metrics is not None
    if model.held_out:
        return {
            "val_accuracy": metrics.val_accuracy,
            "fingerprint": bench.fingerprint,
            "seconds": seconds,
        }
    folder.mkdir(exist_ok=True)
    path = folder / MODEL_FILE
    # Without times: trained again it is the same file, and its test number stands.
    told = asdict(replace(metrics, images_per_second=0.0, seconds=0.0))
    save_model(training, path, classes=bench.classes, metrics=told)
    return {
        "model_sha256": sha256(path),
        "fingerprint": bench.fingerprint,
        "train_accuracy": metrics.train_accuracy,
        "train_loss": metrics.train_loss,
        "seconds": seconds,
    }
