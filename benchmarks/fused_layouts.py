"""One step of several networks by layout: what `model.fused_network` does, and what it does not.

Network after network; grouped convolutions over maps side by side, as `model.fused_network` has
them; `torch.vmap` over stacked weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.table import Table
from torch import Tensor

from model.cnn import CNN
from model.fused_dropout import Draws
from model.fused_network import FusedNetwork
from model.precision import resolve_precision

_WARM_UP_STEPS = 3
_STEPS = 20


def measure_layouts(models: Sequence[CNN], images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Time the forward and backward pass of networks without dropout, all on the same images.

    Images (N, C, H, W) uint8 and labels (N,) int64 are on the networks' device.
    """
    count, device = len(models), images.device
    fused, draws = FusedNetwork(models), Draws(range(count), device)
    weights, buffers = torch.func.stack_module_state(list(models))

    def one_by_one() -> None:
        for model in models:
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    def total(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(count)) * count

    def grouped() -> None:
        fused.gradient(total(fused.logits([images] * count, draws)))

    def call(of_weights: Any, of_buffers: Any, of_images: Tensor) -> Any:
        return torch.func.functional_call(models[0], (of_weights, of_buffers), (of_images,))

    def vmapped() -> None:
        logits = torch.vmap(call)(weights, buffers, images.expand(count, *images.shape))
        torch.autograd.grad(total(logits), list(weights.values()))

    steps = {"network after network": one_by_one, "grouped": grouped, "vmap": vmapped}
    precision = resolve_precision("auto", device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return [
            {"networks": count, "layout": layout, "milliseconds": 1000 * _timed(step, device)}
            for layout, step in steps.items()
        ]


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Return the median seconds of a call, after a few that are not counted."""
    taken = []
    for _ in range(_WARM_UP_STEPS + _STEPS):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[_WARM_UP_STEPS:])


def layout_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return what `measure_layouts` found, as a table."""
    table = Table(
        title="Forward and backward pass of one step",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("networks", "layout", "ms", "ms each"):
        table.add_column(heading, justify="left" if heading == "layout" else "right")
    for row in rows:
        each = row["milliseconds"] / row["networks"]
        table.add_row(
            str(row["networks"]), row["layout"], f"{row['milliseconds']:.1f}", f"{each:.2f}"
        )
    return table
