"""Measure how long the exported ONNX program takes for batches of several sizes, on the CPU."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.images import ImageShape
from model.batch import images_at_once
from model.exported import open_program

BATCH_SIZES = (1, 8, 64, 256)
SECONDS = 0.4
"""Spent on each batch size; two runs more warm it up."""
_FEWEST, _MOST = 5, 500  # runs that are timed


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLatency:
    """How long one call takes with one size of batch."""

    batch: int
    """Images in one call."""
    median_ms: float
    """Milliseconds of a call."""
    p90_ms: float
    """Milliseconds that nine calls of ten do not exceed."""
    runs: int
    """Calls that were timed."""

    @property
    def images_per_second(self) -> float:
        """Images in a second, by the median."""
        return 1000 * self.batch / self.median_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long the program takes on the machine that exported it."""

    runtime: str
    """What ran it, with its version."""
    threads: int
    """CPU threads it was given."""
    batches: tuple[BatchLatency, ...]
    """By size; those that take too much memory are left out."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"batches": [asdict(batch) for batch in self.batches]}


def measure_latency(
    program: Path,
    shape: ImageShape,
    *,
    bytes_each: int,
    threads: int,
    seconds: float = SECONDS,
) -> Latency:
    """Time `program` (.onnx) on images drawn at random; the values do not change the time.

    Args:
        program: Takes pixels (N, C, H, W) float32.
        shape: Of its images.
        bytes_each: Memory one image takes inside the network, see `bytes_per_image`.
        threads: CPU threads it may use, at least 1.
        seconds: Spent on each batch size, about.
    """
    import onnxruntime

    session = open_program(program, threads)
    draw = np.random.default_rng(0)
    measured = []
    for size in BATCH_SIZES:
        if size > images_at_once(bytes_each, most=size):
            break
        pixels = draw.integers(
            0, 256, (size, shape.channels, shape.height, shape.width), dtype=np.uint8
        ).astype(np.float32)
        for _ in range(2):
            session.run(["logits"], {"pixels": pixels})
        spent: list[float] = []
        while len(spent) < _FEWEST or (sum(spent) < seconds and len(spent) < _MOST):
            began = time.perf_counter()
            session.run(["logits"], {"pixels": pixels})
            spent.append(time.perf_counter() - began)
        median, p90 = 1000 * np.quantile(spent, (0.5, 0.9))
        measured.append(
            BatchLatency(batch=size, median_ms=float(median), p90_ms=float(p90), runs=len(spent))
        )
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return Latency(runtime=runtime, threads=threads, batches=tuple(measured))
