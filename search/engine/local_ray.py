"""Ray on this machine: started for one search, watched, and ended.

All that it writes is in its root (`search.engine.ray_root`), no signal of a terminal or a group
reaches it, and its death is noticed: Ray itself would let a driver wait for a minute.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

import psutil
import ray
from ray._private import services, utils, worker

from data.one_line import one_line
from search.engine.ray_root import PLACE

_SHARED_MEMORY = Path("/dev/shm")
_LOG_BYTES = 20 << 20
_WATCHED = ("gcs_server", "raylet")  # a driver cannot go on without
_WATCH_SECONDS = 0.5


@contextmanager
def local_ray(
    root: Path, *, cpus: int, object_store_bytes: int, died: Callable[[str], None]
) -> Iterator[None]:
    """Run Ray for the length of a block.

    Args:
        root: The folder for all that it writes.
        cpus: What all trials together may use.
        object_store_bytes: Memory for what processes share.
        died: Called by a thread if Ray has died, with the name of the process that it was.

    Raises:
        ValueError: Ray does not start, or would soon fail for want of disk.
    """
    _check_disk(root, object_store_bytes)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is told by ours
    worker.print_to_stdstream = _do_nothing  # it would be in the middle of our screen
    over = threading.Event()
    try:
        try:
            with _apart():
                ray.init(
                    address="local",  # never join a cluster that happens to run here
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=object_store_bytes,
                    _temp_dir=str(root),
                    _node_ip_address="127.0.0.1",
                )
        except Exception as error:
            raise ValueError(f"Ray does not start: {one_line(str(error))}") from error
        threading.Thread(target=_watch, args=(over, died), name="Ray", daemon=True).start()
        yield
    finally:
        over.set()
        ray.shutdown()


def _check_disk(root: Path, object_store_bytes: int) -> None:
    # Ray starts on a disk that is full, and says something else, or nothing, when it fails.
    in_memory = _SHARED_MEMORY.is_dir() and disk_usage(_SHARED_MEMORY).free >= object_store_bytes
    needed = _LOG_BYTES + (0 if in_memory else object_store_bytes)
    free = disk_usage(root).free
    if free < needed:
        raise ValueError(
            f"{root.parent} has {free >> 20} MiB free, but Ray needs {needed >> 20} MiB there; free"
            f" some, or set {PLACE} to a folder on another disk"
        )


@contextmanager
def _apart() -> Iterator[None]:
    """Let the processes that Ray starts inside be a process group of their own, and SIGTERM ours.

    Ctrl-C, a closed terminal, `timeout` and many others send their signal to a whole group: it is
    for the driver alone, which ends Ray in good order.

    And let them listen on loopback alone: Ray takes 127.0.0.1 for this machine's address in the
    network, and listens there.
    """
    group = 0
    room: Any = services
    start_plainly, take_sigterm = room.ConsolePopen, utils.set_sigterm_handler
    find_address = room.resolve_ip_for_localhost

    def start(*arguments: Any, **options: Any) -> Any:
        nonlocal group
        process = start_plainly(*arguments, process_group=group, **options)
        group = group or process.pid
        return process

    handler = signal.getsignal(signal.SIGTERM)
    room.ConsolePopen, utils.set_sigterm_handler = start, _do_nothing
    room.resolve_ip_for_localhost = lambda address: address
    try:
        yield
    finally:
        room.ConsolePopen, utils.set_sigterm_handler = start_plainly, take_sigterm
        room.resolve_ip_for_localhost = find_address
        signal.signal(signal.SIGTERM, handler)  # Ray's C++ core has taken it, too


def _watch(over: threading.Event, died: Callable[[str], None]) -> None:
    watched = list[psutil.Process]()
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # another one, that has just ended
            watched += [process] if process.name() in _WATCHED else []
    if len(watched) < len(_WATCHED) and not over.is_set():
        died(" or ".join(_WATCHED))
        return
    while not over.wait(_WATCH_SECONDS):
        for process in watched:
            if _is_dead(process) and not over.is_set():
                died(process.name())
                return


def _is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # until its parent asks for its end
    except psutil.Error:
        return True


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stand in for functions of Ray's."""
