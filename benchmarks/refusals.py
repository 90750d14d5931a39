"""What a benchmark cannot run, said in one line before it starts."""

from __future__ import annotations

from pydantic import ValidationError


def check_device(name: str) -> None:
    """Refuse a device that PyTorch does not have here, without taking memory of one.

    Raises:
        ValueError: It is none of cpu, cuda and cuda:N, or there are not so many.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device is {name!r}, but must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"--device is {name}, but PyTorch sees {count or 'no'} CUDA"
            f" device{'' if count == 1 else 's'} here: give --device cpu"
        )


def one_line(error: Exception) -> str:
    """Return what is wrong, on one line; of several things that pydantic found, the first."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)
