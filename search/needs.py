"""What a study needs of memory and disk, and what there is. Sizes in bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from data.images import LabelledImages
from search.config import StudyConfig
from search.probe import Measured
from search.slots import Slots

_RAY = 600 << 20  # its own processes on one machine
_RAY_IN_WORKER = 150 << 20  # what a slot's process holds beyond one of the probe
_CUDA_IN_WORKER = 500 << 20  # context and kernels of a process, outside PyTorch's own count
_FILES_A_TRIAL = 40 << 10  # TensorBoard, and its rows in study.db
_FILES_A_MODEL = 1 << 20  # test logits and TensorBoard of a retrained model
_FILES_A_STUDY = 5 << 20  # report, an empty study.db


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
    """Return the memory of the search or of the retraining, whichever takes more.

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
    # Every process of the retraining loads the images for itself.
    retrain = {
        f"{slots.count} x retraining": slots.count * (process + data),
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
    config: StudyConfig, runs: Path, *, trials: float, checkpoint: float, model: float
) -> Need:
    """Return the disk that a study's folder takes.

    Args:
        config: The study.
        runs: Folder that holds the studies; it need not be there yet.
        trials: How many there may be.
        checkpoint: Mean size of a trial's checkpoint.
        model: Size of a trained model without its optimizer.
    """
    final = config.final
    models = final.seeds + final.baseline_seeds * len(config.baselines)
    parts = {
        "checkpoints": round(trials * checkpoint),
        "curves and record": round(trials * _FILES_A_TRIAL),
        "final models": round(models * (model + _FILES_A_MODEL)),
        # Weights three times: safetensors, torch.export, ONNX.
        "export and report": _FILES_A_STUDY + round(3 * model) * final.export,
    }
    place = next(folder for folder in (runs, *runs.parents) if folder.exists())
    return Need(what="disk", parts=parts, available=shutil.disk_usage(place).free)


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory this process may still take: the machine's, or its container's if less.

    `cgroup` holds the limits of the container in the files of Linux's control groups, version 2.
    """
    free = psutil.virtual_memory().available
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        stat = (cgroup / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return free  # no container, or none of that kind
    if limit == "max":
        return free
    # Files read long ago are given back when memory is asked for.
    cached = int(stat[stat.index("inactive_file") + 1])
    return min(free, int(limit) - used + cached)
