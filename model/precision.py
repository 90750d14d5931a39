"""Choose the numbers to compute in: bfloat16 where the hardware has it, else float32."""

from functools import cache
from pathlib import Path
from typing import Literal

import torch


def resolve_precision(
    precision: Literal["fp32", "bf16", "auto"], device: torch.device | str
) -> Literal["fp32", "bf16"]:
    """Return the precision that is computed in: "auto" is bf16 where the hardware has it natively.

    That is an NVIDIA GPU of compute capability 8.0 or above, or a CPU with the avx512_bf16 or
    amx_bf16 instructions. Weights, batch-norm statistics, loss and optimizer stay float32.
    """
    if precision != "auto":
        return precision
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and _cpu_has_bf16()
    return "bf16" if native else "fp32"


@cache
def _cpu_has_bf16() -> bool:
    # Linux lists the instruction sets there (proc(5)); elsewhere "auto" stays with float32.
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text(encoding="ascii", errors="replace").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
