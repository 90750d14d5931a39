"""How much memory this process may still take, and a refusal before it takes more."""

from __future__ import annotations

from pathlib import Path

import psutil

from data.images import DataError


def check_memory(path: Path, num_bytes: int) -> None:
    """Refuse to read what needs more memory than there is. Raises DataError."""
    available = available_memory()
    if num_bytes > available:
        raise DataError(
            f"{path}: needs {num_bytes / 1e9:.1f} GB of memory, but {max(available, 0) / 1e9:.1f} "
            "GB are free; use fewer or smaller images"
        )


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
