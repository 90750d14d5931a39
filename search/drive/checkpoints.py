"""The checkpoints in one trial's folder: trials/t0007/e0003.safetensors, one file a kept epoch.

A worker writes them while its trial runs, through a shelf (`search.drive.shelf`): it saves an
epoch, then tidies, then reports. What is left when the trial waits or has ended is decided by
`search.drive.holdings`. `load_checkpoint` of `model.checkpoint` reads any of them: to train on, or
to use the network as it was at that epoch.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"e(\d{4,})\.safetensors")
_PART = re.compile(r"\.e\d{4,}\.safetensors\.[0-9a-f]+\.part")
NEWEST = 2
"""Kept while a trial runs: the last, and the one to fall back to where that is damaged."""
_PART_SECONDS = 600.0  # a younger one may be of a worker that was given up but is still alive


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return the file that holds a trial, whose files are in `folder`, as it was after `epoch`."""
    return folder / f"e{epoch:04d}.safetensors"


def found(folder: Path) -> list[tuple[int, Path]]:
    """Return the epochs that have a checkpoint, with its path, newest first.

    By name alone: a damaged one is among them, as is a directory of that name; whoever reads them
    says so. Half-written files and other names are not. A folder that is not there holds none.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        return []
    epochs = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
    there = set(names)
    return [
        (epoch, path)
        for epoch in sorted(set(epochs), reverse=True)
        if (path := checkpoint_path(folder, epoch)).name in there  # not e00003
    ]


def parts(folder: Path, *, seconds: float = 0.0) -> list[Path]:
    """Return the checkpoints that were never finished, last written to `seconds` ago or before."""
    latest = time.time() - seconds
    old = []
    for path in folder.glob(".e*.part"):
        with suppress(FileNotFoundError):  # finished, or removed, meanwhile
            if _PART.fullmatch(path.name) and path.lstat().st_mtime <= latest:
                old.append(path)
    return sorted(old)


def tidy(folder: Path, *, best_epoch: int | None) -> None:
    """Delete all checkpoints but the newest two and that of `best_epoch`, and old unfinished ones.

    To be called when the newest has just been written, after whatever was found damaged has been
    discarded: a damaged one that is newer than the epoch trained would count as one of the two.
    """
    there = found(folder)
    # The newest one's name is on the disk already (`write_whole`): a power cut keeps it.
    surplus = [path for epoch, path in there[NEWEST:] if epoch != best_epoch]
    for path in [*surplus, *parts(folder, seconds=_PART_SECONDS)]:
        discard(path)


def discard(path: Path) -> None:
    """Delete a checkpoint, also one that is a directory; one that is gone already is no error."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
