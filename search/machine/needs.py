"""What a study needs of memory and disk, and what there is. Sizes in bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import psutil
from rich.filesize import decimal

from data.images import ImageShape, LabelledImages
from data.memory import available_memory
from model.config import Configuration
from model.geometry import network_cost
from search.config.config import StudyConfig
from search.config.draws import draw_configurations
from search.machine.bench import Measured
from search.machine.slots import Slots
from search.record.dataset import image_shape

if TYPE_CHECKING:
    from search.record.study import Study

_RAY = 600 << 20  # its own processes on one machine
_RAY_IN_WORKER = 150 << 20  # what a slot's process holds beyond one of the probe
_CUDA_IN_WORKER = 500 << 20  # context and kernels of a process, outside PyTorch's own count
_FILES_A_TRIAL = 40 << 10  # TensorBoard, and its rows in study.db
_FILES_A_MODEL = 1 << 20  # test logits and TensorBoard of a retrained model
_FILES_A_STUDY = 5 << 20  # report, an empty study.db
_FILES_A_CHECKPOINT = 8 << 10  # its header: the configuration, every epoch's metrics
_LIVE = 4  # checkpoints of a running trial: the last two, the best, the one being written
_WAITING = 2  # of one that waits for promotion: the last, the best
_DRAWS = 32  # to know the size of a checkpoint by
_LOW_DISK = 500_000_000  # as little is soon filled by something else


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """How much of one thing a study takes, part by part, and how much there is."""

    what: str
    """`memory`, `disk` or `GPU memory`."""
    parts: Mapping[str, int]
    available: int

    @property
    def total(self) -> int:
        """Return the sum of the parts."""
        return sum(self.parts.values())

    @property
    def suffices(self) -> bool:
        """Return whether there is enough."""
        return self.total <= self.available


def memory_need(slots: Slots, measured: Sequence[Measured], images: LabelledImages) -> Need:
    """Return the memory of the search or of what follows it, whichever takes more.

    This process counts as the driver: it holds all images too.
    """
    data = images.images.nbytes + images.labels.nbytes
    own = psutil.Process().memory_info().rss
    process = max(m.memory_bytes for m in measured)
    search = {
        f"{slots.count} x trial": slots.count * (process + _RAY_IN_WORKER),
        "shared images": data,
        "Ray": _RAY,
        "driver": own + data,
    }
    # Every process loads the images for itself, and for the race a second time, as a split.
    retrain = {
        f"{slots.count} x race": slots.count * (process + 2 * data),
        "driver": own + 2 * data,
    }
    parts = max(search, retrain, key=lambda needed: sum(needed.values()))
    return Need(what="memory", parts=parts, available=available_memory() + own)


def gpu_memory_need(slots: Slots, measured: Sequence[Measured]) -> Need | None:
    """Return the memory of the GPU with the most trials; None where trials use no GPU."""
    if slots.gpus == 0:
        return None
    import torch

    gpus = torch.cuda.device_count()
    each = max(m.gpu_bytes for m in measured) + _CUDA_IN_WORKER
    trials = -(-slots.count // gpus)
    smallest = min(torch.cuda.get_device_properties(i).total_memory for i in range(gpus))
    return Need(what="GPU memory", parts={f"{trials} x trial": trials * each}, available=smallest)


def disk_need(
    config: StudyConfig, runs: Path, *, trials: float, slots: int, checkpoint: float, model: float
) -> Need:
    """Return the disk that a study's folder takes when it is fullest.

    Args:
        config: The study.
        runs: Folder that holds the studies; it need not be there yet.
        trials: How many there may be.
        slots: How many run at a time.
        checkpoint: Mean size of a checkpoint.
        model: Size of a trained model without its optimizer.
    """
    limits, asha = config.checkpoints, config.asha
    live = slots * _LIVE * checkpoint
    kept = min(limits.keep_best, trials) * checkpoint
    if asha.enabled and asha.form == "promotion":
        kept = max(kept, _WAITING * trials * checkpoint)
    if limits.max_gb is not None:  # what runs is kept all the same, and the best
        kept = min(kept, max(limits.max_gb * 1e9 - live, checkpoint))
    parts = {
        **_checkpoints(config, "checkpoints", live + kept),
        "curves and record": round(trials * _FILES_A_TRIAL),
        **_files_at_the_end(config, model),
    }
    return Need(what="disk", parts=parts, available=_free(runs))


def check_disk(study: Study, slots: int) -> None:
    """Refuse to search where the disk cannot hold what the study needs at least.

    That is what its slots (so many) write at a time, and what follows the search; not what may come
    together of trials that wait.

    Raises:
        ValueError: In one line, what is needed, what is free and what to do.
    """
    config, shape = study.config, image_shape(study)
    draws = draw_configurations(config, shape, count=_DRAWS)
    drawn = (*draws.first.values(), *draws.drawn)
    if not drawn:
        return  # the search says that nothing can be proposed, and why
    live = slots * _LIVE * fmean(checkpoint_bytes(c, shape) for c in drawn)
    parts = {
        **_checkpoints(config, f"checkpoints of {slots} x trial", live),
        **_files_at_the_end(
            config, 4 * fmean(network_cost(c.network, shape).parameters for c in drawn)
        ),
    }
    need = Need(what="disk", parts=parts, available=_free(study.folder))
    if not need.suffices:
        sizes = ", ".join(f"{name} {decimal(part)}" for name, part in parts.items())
        raise ValueError(
            f"disk: {study.name} needs at least {decimal(need.total)} ({sizes}), but"
            f" {decimal(need.available)} are free at {study.folder}; free some (`gc` deletes what"
            " no study needs), or begin it under --runs on a larger disk"
        )


def low_disk(folder: Path) -> str:
    """Return a warning where so little of the folder's disk is free that it may soon be full."""
    free = _free(folder)
    if free >= _LOW_DISK:
        return ""
    return (
        f"only {decimal(free)} are free on the disk of {folder}; when it is full the study stops,"
        " to be resumed: free some, `gc` deletes what no study needs"
    )


def checkpoint_bytes(configuration: Configuration, shape: ImageShape) -> int:
    """Return about how large a checkpoint is: the parameters, and what the optimizer keeps of each.

    Raises:
        ValueError: The network does not fit the images.
    """
    return checkpoint_size(configuration, network_cost(configuration.network, shape).parameters)


def checkpoint_size(configuration: Configuration, parameters: int) -> int:
    """Return the same of a network whose number of parameters is known."""
    recipe = configuration.training
    copies = 3 if recipe.optimizer == "adamw" else 1 + (recipe.momentum > 0)
    copies += recipe.ema > 0
    return 4 * copies * parameters + _FILES_A_CHECKPOINT


def _checkpoints(config: StudyConfig, name: str, size: float) -> dict[str, int]:
    return {name: round(size)} if config.checkpoints.url is None else {}  # a store has no end


def _files_at_the_end(config: StudyConfig, model: float) -> dict[str, int]:
    final = config.final
    models = final.seeds + final.baseline_seeds * len(config.baselines)
    return {
        "final models": round(models * (model + _FILES_A_MODEL)),
        # Weights three times: safetensors, torch.export, ONNX.
        "export and report": _FILES_A_STUDY + round(3 * model) * final.export,
    }


def _free(folder: Path) -> int:
    place = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(place).free
