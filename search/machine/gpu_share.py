"""Which share of a GPU a trial asks for, by the memory that it needs there.

Trials that share a GPU share its memory, and one that finds none left fails. What the hungriest of
a study takes is measured (`search.machine.gpu_need`). The record keeps the bytes, not the share: on
another GPU the same need is another share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.filesize import decimal

_MARGIN = 1.2
"""Allocators leave gaps, and cuDNN may choose another algorithm with other trials beside it."""
_MOST_TRIALS = 100
"""On one GPU: finer shares are not told apart by Ray."""
NOTED = "gpu_need"
"""The study's note of what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuNeed:
    """What the hungriest trial takes of a GPU's memory, and how that is known. Sizes in bytes."""

    training: int
    """Most that PyTorch reserved while it trained and scored."""
    context: int
    """What CUDA takes in each process beside that."""
    images: int
    """All images of the study: every trial holds them on the GPU."""
    configuration: Mapping[str, Any]
    """The configuration it was measured with, JSON-plain."""
    parameters: int
    device: str
    """The GPU it was measured on."""

    @property
    def total(self) -> int:
        """Return the bytes that a trial must have."""
        return self.training + self.context + self.images

    def to_dict(self) -> dict[str, Any]:
        """Return what the record keeps, as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, noted: Mapping[str, Any]) -> GpuNeed:
        """Return what `to_dict` has written."""
        return cls(**noted)

    def __str__(self) -> str:
        """Say it in a line."""
        filters = "-".join(map(str, self.configuration["network"]["filters"]))
        return (
            f"a trial takes up to {decimal(self.total)} of GPU memory (training"
            f" {decimal(self.training)}, CUDA {decimal(self.context)}, images"
            f" {decimal(self.images)}): measured on {self.device} with filters {filters}, batches"
            f" of {self.configuration['training']['batch_size']}, {self.parameters:,} parameters"
        )


def gpu_share(need: int, *, memory: int, trials: int) -> float:
    """Return the share of a GPU that a trial asks for.

    Args:
        need: Bytes that one trial takes, without a margin.
        memory: Bytes of the (smallest) GPU.
        trials: How many trials the CPU threads allow on each GPU; more would only wait.
    """
    held = max(1, min(int(memory / (need * _MARGIN)), trials, _MOST_TRIALS))
    # Rounded down: Ray counts in ten-thousandths, and so many shares must not be more than one GPU.
    return math.floor(10_000 / held) / 10_000


def share_here(need: GpuNeed | None, *, threads: int, cpus: int) -> float | None:
    """Return the share that a trial asks for on this machine; None without a GPU or a need."""
    import torch

    gpus = torch.cuda.device_count()
    if not gpus or need is None:
        return None
    memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(gpus))
    return gpu_share(need.total, memory=memory, trials=-(-(cpus // threads) // gpus))
