"""The folder for all that Ray writes: one for each driver, removed at its end, or swept later.

It lies in the system's temporary folder, or in FASHION_SEARCH_TMP. Its driver holds a lock in it:
where nobody does, the driver was killed, and what it left can be ended and removed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

PLACE = "FASHION_SEARCH_TMP"
"""The environment variable that says where roots are made."""
LOGS = "ray-logs"
"""Folder of a study with the logs of a Ray that failed."""
_PREFIX = "fashion-search-"
_LOCK = "driver.lock"
_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest path
_MOST_BYTES = 103 if sys.platform == "darwin" else 107  # of a socket's path
_REMOVE_SECONDS = 5.0  # what is about to end may write until then


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What was left of a driver, and is gone now."""

    folder: Path
    bytes: int
    processes: int


@contextmanager
def ray_root() -> Iterator[Path]:
    """Make a root, hold it, and clear it in the end.

    Raises:
        ValueError: There is no place for it; one line that says why and what to do.
    """
    root, lock = _make()
    with lock:
        try:
            yield root
        finally:
            clear(root)


def sweep(*, dry_run: bool = False) -> list[Swept]:
    """Clear the roots of drivers that were killed; with `dry_run`, only say which those are."""
    found = []
    for lock in sorted(_place().glob(f"{_PREFIX}*/{_LOCK}")):
        root = lock.parent
        with suppress(OSError):
            if root.lstat().st_uid == os.getuid():
                with lock.open("r+", encoding="utf-8") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.append(_look(root) if dry_run else clear(root))
    return found


def clear(root: Path) -> Swept:
    """End the processes that write to a root, and remove it. Its lock must be held, or its driver
    about to end."""
    processes = _writers(root)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=_REMOVE_SECONDS)
    size = _size(root)
    deadline = time.monotonic() + _REMOVE_SECONDS
    while not _remove(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Swept(folder=root, bytes=size, processes=len(processes))


def keep_logs(root: Path, study: Path) -> None:
    """Keep Ray's logs as `ray-logs` in a study's folder, for who looks for the cause of a failure.

    Those of the last failure only, and none where the disk is full.
    """
    kept = study / LOGS
    shutil.rmtree(kept, ignore_errors=True)
    # Not by way of the link to it; and a study that was removed is not made again.
    for logs in root.glob("session_*-*/logs") if study.is_dir() else ():
        try:
            shutil.copytree(logs, kept)
        except (OSError, shutil.Error):
            shutil.rmtree(kept, ignore_errors=True)


def _look(root: Path) -> Swept:
    return Swept(folder=root, bytes=_size(root), processes=len(_writers(root)))


def _place() -> Path:
    given = os.environ.get(PLACE)
    # The temporary folder of a user of macOS is too long a path for sockets; Ray does not use it.
    default = "/tmp" if sys.platform == "darwin" else tempfile.gettempdir()
    return Path(given or default).resolve()


def _make() -> tuple[Path, TextIO]:
    place = _place()
    root = place / f"{_PREFIX}{secrets.token_hex(3)}"
    excess = len(os.fsencode(root / _SOCKET)) - _MOST_BYTES
    if excess > 0:
        raise ValueError(
            f"the temporary folder {place} is {excess} bytes too long a path for Ray's sockets; set"
            f" {PLACE} to a shorter one, such as /tmp"
        )
    try:
        # Under another name until it is held: it must not be taken for a killed driver's.
        new = Path(tempfile.mkdtemp(prefix=".fashion-search-", dir=place))
        lock = (new / _LOCK).open("w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return new.rename(root), lock
    except OSError as error:
        raise ValueError(
            f"the temporary folder {place} cannot be used: {error.strerror}; set {PLACE} to another"
        ) from None


def _writers(root: Path) -> list[psutil.Process]:
    # Not by what they are called: Ray's agents overwrite their command line and environment.
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.uids().real == os.getuid() and process.pid != os.getpid()
            # Somebody may be looking at a log, and not with Python.
            if ours and ("python" in process.exe() or "/ray/" in process.exe()):
                paths = (Path(file.path) for file in process.open_files())
                if any(path.is_relative_to(root) for path in paths):
                    found.append(process)
    return found


def _size(root: Path) -> int:
    size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):  # gone by now
                size += (Path(folder) / name).lstat().st_size
    return size


def _remove(root: Path) -> bool:
    """Remove a root as far as possible, its lock last: a half removed one can be swept again."""
    with suppress(FileNotFoundError):
        for path in root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink(missing_ok=True)
        if not any(path.name != _LOCK for path in root.iterdir()):
            shutil.rmtree(root, ignore_errors=True)
    return not root.exists()
