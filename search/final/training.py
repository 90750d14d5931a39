"""Train networks after the search: in processes of this machine, or as tasks of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import platform
import queue
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.final.bench import MODEL_FILE, Bench, FinalModel, sha256, train_group, train_one
from search.final.fusing import fused_together, pack
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only
from search.machine.slots import Slots, pick_device, plan_slots, worker_environment
from search.record.dataset import StudyImages
from search.study_error import StudyError

if TYPE_CHECKING:
    from search.engine.cluster import Cluster

__all__ = ["MODEL_FILE", "FinalModel", "Progress", "sha256", "train_final", "train_models"]

Progress = Callable[[str, int, EpochMetrics], None]
"""Called with a model's name, its epochs in all, and each epoch's metrics."""


def train_models(
    config: StudyConfig,
    models: list[FinalModel],
    folder: Path,
    images: StudyImages,
    progress: Progress,
    cluster: Cluster | None = None,
    *,
    together: int | None = None,
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    """Train networks side by side; yield each with its outcome; broken off, end its processes.

    An outcome has `diverged_at`, an epoch, or `seconds` and what is known of the model. On this
    machine a process trains up to `together` networks at once where they can be (`model.fused`);
    None: as many as a GPU is the better for, one on a CPU.

    Raises:
        StudyError: The images have changed since the study was begun, or a worker process died.
    """
    if cluster is None:
        trained = _train_here(config, models, folder, images, progress, together)
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

    from search.engine.trial import fetched

    torch.set_num_threads(slots.threads)
    everything, device = fetched(images), pick_device(slots.gpus)
    if everything.fingerprint() != whole:
        raise StudyError(f"the images that arrived at {platform.node()} are not those of the study")
    bench = Bench.over(everything, fingerprint, device)
    with TemporaryDirectory(prefix="fashion-search-final-") as place:
        trained = Path(place) / "model"
        epochs = train_one(bench, model, trained)
        outcome = yield from epochs
        content = (trained / MODEL_FILE).read_bytes() if trained.exists() else b""
    yield outcome, content


def _train_here(
    config: StudyConfig,
    models: list[FinalModel],
    folder: Path,
    images: StudyImages,
    progress: Progress,
    together: int | None,
) -> Generator[tuple[FinalModel, dict[str, Any]], None, None]:
    slots = plan_slots(config.resources)
    together = fused_together(slots) if together is None else together
    groups = pack(models, slots, images.everything.shape, together=together)
    os.environ |= worker_environment()
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    longest = {model.name: model.epochs for model in models}
    workers = min(slots.count, len(groups))
    with ProcessPoolExecutor(workers, context, _prepare, (config.data, events, slots)) as pool:
        try:
            with signals_to_parent_only():
                futures: dict[Future[list[dict[str, Any]]], list[FinalModel]] = {
                    pool.submit(_train_in_pool, group, folder): group for group in groups
                }
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=0.2)
                _drain(events, longest, progress)
                for future in finished:
                    yield from zip(futures[future], future.result(), strict=True)
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


_worker: dict[str, Any] = {}  # of one process of the pool: its bench and the way to its parent


def _prepare(section: DataSection, events: Any, slots: Slots) -> None:
    end_with_parent()
    import torch

    from search.record.dataset import load_images

    torch.set_num_threads(slots.threads)
    images = load_images(section)
    # Spawned processes are numbered from 1: several GPUs take them in turn.
    device = pick_device(slots.gpus, multiprocessing.current_process()._identity[-1])
    _worker["events"] = events
    _worker["bench"] = Bench.over(images.everything, images.fingerprint, device)


def _train_in_pool(models: list[FinalModel], folder: Path) -> list[dict[str, Any]]:
    epochs = train_group(_worker["bench"], models, folder)
    while True:
        try:
            told = next(epochs)
        except StopIteration as end:
            outcomes: list[dict[str, Any]] = end.value
            return outcomes
        _worker["events"].put(told)
