"""Checkpoints that come to the driver's node through Ray, where no path and no store is shared.

An actor on that node writes whole files into the study's folder, in the same layout as a worker on
that node would. It holds no state: if it dies, Ray starts another one. It ends with the driver.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from model.whole_file import write_whole
from search.drive.shelf import FolderShelf, Shelf, ShelfError, Sizes, scratch, shelf_of
from search.record.study import Study

_AT_ONCE = 4  # calls: each waits for the disk


def shelf_for(study: Study, *, shared: bool) -> Shelf:
    """Return the shelf that the workers of a study use; to be kept by the driver while they do.

    Args:
        study: With `checkpoints.url`, they use that store, whatever else is shared.
        shared: Whether the study's folder is at the same path on every node.

    Raises:
        ValueError: Nothing is shared, and this process is no driver on a node of the cluster.
    """
    if study.config.checkpoints.url is not None or shared:
        return shelf_of(study)
    return RelayShelf(study.folder / "trials")


class _Clerk:
    """Does on the driver's node what workers ask for. Errors of the disk are told as values."""

    def __init__(self, folder: str) -> None:
        self._shelf = FolderShelf(Path(folder))

    def do(self, what: str, *arguments: Any) -> Any:
        """Return what a method below returns, or the number and the text of an OSError."""
        try:
            return True, getattr(self, f"_{what}")(*arguments)
        except OSError as error:
            # As an exception it would arrive without its number, which tells a full disk.
            return False, (error.errno or errno.EIO, error.strerror or str(error), error.filename)

    def _sizes(self, trial: int) -> Sizes:
        return self._shelf.sizes(trial)

    def _all_sizes(self) -> dict[int, Sizes]:
        return self._shelf.all_sizes()

    def _put(self, trial: int, epoch: int, content: bytes) -> None:
        with self._shelf.writing(trial, epoch) as path:
            write_whole(path, content)

    def _get(self, trial: int, epoch: int) -> bytes:
        with self._shelf.reading(trial, epoch) as path:
            return path.read_bytes()

    def _discard(self, trial: int, epoch: int) -> None:
        self._shelf.discard(trial, epoch)

    def _tidy(self, trial: int, best_epoch: int | None) -> None:
        self._shelf.tidy(trial, best_epoch=best_epoch)


class RelayShelf(Shelf):
    """A folder of the driver's node, for workers on other nodes."""

    far = True

    def __init__(self, folder: Path) -> None:
        """Start the actor on this node, which must be one of the cluster's.

        Raises:
            ValueError: This process is joined to the cluster from outside (`ray://`).
        """
        client: Any = ray.util.client.ray
        if client.is_connected():
            raise ValueError(
                "checkpoints cannot be handed to a machine outside the cluster (ray://): use"
                " `submit`, or give checkpoints.url or --runs on a path that all nodes share"
            )
        self._folder = str(folder)
        here = ray.get_runtime_context().get_node_id()
        clerk: Any = ray.remote(_Clerk)
        self._clerk = clerk.options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # all that it does can be done twice
            max_concurrency=_AT_ONCE,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        ).remote(self._folder)

    @property
    def place(self) -> str:
        return self._folder

    @property
    def way(self) -> str:
        return f"no path is shared: checkpoints come through Ray to the driver's {self._folder}"

    def sizes(self, trial: int) -> Sizes:
        return dict(self._ask("sizes", trial))

    def all_sizes(self) -> dict[int, Sizes]:
        return dict(self._ask("all_sizes"))

    @contextmanager
    def writing(self, trial: int, epoch: int) -> Iterator[Path]:
        with scratch() as path:
            yield path
            self._ask("put", trial, epoch, path.read_bytes())

    @contextmanager
    def reading(self, trial: int, epoch: int) -> Iterator[Path]:
        with scratch() as path:
            path.write_bytes(self._ask("get", trial, epoch))
            yield path

    def discard(self, trial: int, epoch: int) -> None:
        self._ask("discard", trial, epoch)

    def tidy(self, trial: int, *, best_epoch: int | None) -> None:
        self._ask("tidy", trial, best_epoch)

    def _ask(self, what: str, *arguments: Any) -> Any:
        try:
            done, answer = ray.get(self._clerk.do.remote(what, *arguments))
        except RayActorError as error:
            raise ShelfError(f"the driver's node takes no checkpoints: {error}") from error
        if not done:
            number, text, name = answer
            raise OSError(number, f"{text} (on the driver's node)", name)
        return answer
