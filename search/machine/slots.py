"""Divide a machine among trials: how many at a time, and what each worker process gets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.sections import ResourcesSection

if TYPE_CHECKING:
    import torch

CHECKOUT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """How many trials run at a time on this machine, and what each one gets."""

    count: int
    threads: int
    """CPU threads of one trial."""
    gpus: float
    """GPU share of one trial."""
    without_gpu: bool = False
    """Whether nodes that have no GPU take trials as well, and train them on their CPUs."""


def plan_slots(resources: ResourcesSection, *, measured: float | None = None) -> Slots:
    """Divide this machine's CPUs and GPUs among trials.

    Args:
        resources: What a trial is given.
        measured: The GPU share that `auto` stands for (`search.machine.gpu_share`); None where it
            was not measured: then a trial has a whole GPU.

    Raises:
        ValueError: One trial asks for more than the machine has.
    """
    import torch

    cpus, gpus = available_cpus(), torch.cuda.device_count()
    threads = resources.cpus_per_trial
    if threads > cpus:
        raise ValueError(
            f"`resources.cpus_per_trial` is {threads}, but this machine has {cpus} CPUs"
        )
    share = resources.gpus_per_trial
    if share == "auto":
        share = (measured or 1.0) if gpus else 0.0
    if share > gpus:
        raise ValueError(
            f"`resources.gpus_per_trial` is {share:g}, but this machine has {gpus} GPUs; set it"
            " to 0 or auto"
        )
    count = cpus // threads
    if share > 0:
        count = min(count, _held(share, gpus))
    if resources.max_concurrent != "auto":
        count = min(count, resources.max_concurrent)
    return Slots(count=count, threads=threads, gpus=float(share))


def slots_on(slots: Slots, *, cpus: float, gpus: float) -> int:
    """Return how many such slots a node of a cluster holds.

    Args:
        slots: What one slot gets; its count does not matter.
        cpus: That Ray may give to trials on the node.
        gpus: The same.
    """
    count = int(cpus // slots.threads)
    if slots.gpus == 0 or (slots.without_gpu and gpus == 0):
        return count
    return min(count, _held(slots.gpus, int(gpus)))


def _held(share: float, gpus: int) -> int:
    # A share lies on one GPU: of two GPUs, trials of 0.4 fill two each, not five.
    return int(1 / share) * gpus if share <= 1 else int(gpus / share)


def available_cpus() -> int:
    """Return the CPUs this process may use; a batch system or a container may allow only some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not Linux


def pick_device(gpus: float, index: int = 0) -> torch.device:
    """Return where the `index`-th worker trains: on a GPU only if its share of one is not 0.

    Ray hides the other GPUs from a trial with a share; it hides none from a trial without.
    """
    import torch

    if gpus == 0:
        return torch.device("cpu")
    return torch.device("cuda", index % torch.cuda.device_count())


def worker_environment() -> dict[str, str]:
    """Return what every worker process must find in its environment when it starts."""
    path = [str(CHECKOUT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        # Workers import our packages from the checkout, wherever the command was given.
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        # glibc returns every block above 32 MB to the system at once and takes it back, page by
        # page, a moment later. Activations of a wide layer are such blocks: keeping them doubles
        # the images per second of the 64-filter baseline (4,382 to 9,043 on one core).
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    }
