"""Give a process, and all that it starts, a part of the machine's cores: by a control group."""

from __future__ import annotations

import time
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000  # short: a process that has used its part waits for no longer than this


class Cores:
    """A control group with a part of the cores; `close` it when all its processes have ended."""

    def __init__(self, name: str, cores: float) -> None:
        """Make the group.

        Args:
            name: Unlike any other's.
            cores: How many cores its processes may use together; 0.5 is half of one.

        Raises:
            OSError: This machine lets us make none.
        """
        quota = int(cores * _PERIOD_US)
        old = _GROUPS / "cpu"  # version 1 of control groups has a tree for each resource
        self._folder = (old if old.is_dir() else _GROUPS) / name
        self._folder.mkdir()
        if old.is_dir():
            (self._folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self._folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")

    def hold(self, process: int) -> None:
        """Put a process, and what it will start, into the group."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def close(self) -> None:
        """Remove the group; its processes may still be about to go."""
        end = time.monotonic() + 10
        while True:
            try:
                self._folder.rmdir()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
