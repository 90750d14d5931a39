"""Where the checkpoints of a study lie: in its folder, in an object store, or behind the driver.

A worker gets a shelf that was made by `search.engine.relay.shelf_for`, as plain data that travels;
whoever looks after a study (keeper, gc, doctor) gets one by `shelf_of`. On every shelf each trial
has files of its own, one a kept epoch, that `load_checkpoint` of `model.checkpoint` reads.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from search.drive.checkpoints import checkpoint_path, discard, found, tidy
from search.record.study import trial_name
from search.study_error import StudyError

if TYPE_CHECKING:
    from search.config.config import StudyConfig
    from search.record.study import Study

FETCHED = "fetched.json"
"""File in a study's folder that came from a cluster: a copy."""
OWNER = "checkpoints_owner"
"""The study's note of what a store says whose checkpoints lie there."""
Sizes = dict[int, int]
"""Epoch of each checkpoint of a trial -> its bytes, the newest first."""


class ShelfError(StudyError):
    """A shelf that does not answer, or refuses: nothing is known of what lies there."""


class Shelf(ABC):
    """The checkpoints of one study, by trial and epoch."""

    far = False
    """Whether a look at it is a request to another machine, which a driver must not wait for."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for people."""

    @property
    @abstractmethod
    def way(self) -> str:
        """How checkpoints come there, for people: one line for the screen and the record."""

    def name(self, trial: int, epoch: int) -> str:
        """Return what people call a checkpoint: its path, or its address."""
        return f"{self.place}/{trial_name(trial)}/{checkpoint_path(Path(), epoch)}"

    @abstractmethod
    def sizes(self, trial: int) -> Sizes:
        """Return what there is of a trial, by name alone: damaged ones are among them."""

    @abstractmethod
    def all_sizes(self) -> dict[int, Sizes]:
        """Return what there is of every trial that has anything."""

    @abstractmethod
    @contextmanager
    def writing(self, trial: int, epoch: int) -> Iterator[Path]:
        """Give the path of a file to write; it is on the shelf, whole, when the block has ended.

        If the block raises, what was there before still is.
        """
        yield Path()

    @abstractmethod
    @contextmanager
    def reading(self, trial: int, epoch: int) -> Iterator[Path]:
        """Give the path of a file that holds a checkpoint for the length of the block.

        Where it is gone, this raises FileNotFoundError, or the path leads nowhere.
        """
        yield Path()

    @abstractmethod
    def discard(self, trial: int, epoch: int) -> None:
        """Delete a checkpoint; one that is gone already is no error."""

    @abstractmethod
    def tidy(self, trial: int, *, best_epoch: int | None) -> None:
        """Delete all of a trial but the newest two and that of `best_epoch`.

        To be called when the newest has just been written: see `search.drive.checkpoints.tidy`.
        """


class FolderShelf(Shelf):
    """A folder with one folder for each trial: the study's `trials`, or a path all nodes share."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, an absolute path, whether it is there yet or not."""
        self._folder = folder

    @property
    def place(self) -> str:
        return str(self._folder)

    @property
    def way(self) -> str:
        return f"checkpoints are written to {self._folder}"

    def sizes(self, trial: int) -> Sizes:
        sizes = {}
        for epoch, path in found(self._of(trial)):
            with suppress(FileNotFoundError):  # a worker that was given up may still be alive
                sizes[epoch] = path.lstat().st_size
        return sizes

    def all_sizes(self) -> dict[int, Sizes]:
        names = (path.name for path in self._folder.glob("t*") if path.is_dir())
        numbers = (int(name[1:]) for name in names if name[1:].isdecimal())
        known = (number for number in sorted(numbers) if self._of(number).is_dir())  # not t00007
        return {number: sizes for number in known if (sizes := self.sizes(number))}

    @contextmanager
    def writing(self, trial: int, epoch: int) -> Iterator[Path]:
        yield checkpoint_path(self._of(trial), epoch)  # `write_whole` makes it whole

    @contextmanager
    def reading(self, trial: int, epoch: int) -> Iterator[Path]:
        yield checkpoint_path(self._of(trial), epoch)

    def discard(self, trial: int, epoch: int) -> None:
        discard(checkpoint_path(self._of(trial), epoch))

    def tidy(self, trial: int, *, best_epoch: int | None) -> None:
        tidy(self._of(trial), best_epoch=best_epoch)

    def _of(self, trial: int) -> Path:
        return self._folder / trial_name(trial)


def shelf_of(study: Study) -> Shelf:
    """Return the shelf of a study, for whoever has its folder at hand.

    Checkpoints that workers hand to the driver lie in the folder, too.
    """
    url = study.config.checkpoints.url
    # What a copy's record says of the store is old: it is the cluster's.
    if url is None or (study.folder / FETCHED).exists():
        return FolderShelf(study.folder / "trials")
    from search.drive.store_shelf import StoreShelf

    return StoreShelf(url, study.name, owner=str(study.noted(OWNER) or ""))


def check_shelf(config: StudyConfig) -> None:
    """Try the store of a study out, before anything is made: write, read back and delete.

    Raises:
        ShelfError: It cannot be used: one line that says why and what to do, in half a minute.
    """
    if config.checkpoints.url is not None:
        from search.drive.store_shelf import StoreShelf

        StoreShelf(config.checkpoints.url, config.study).check()


def check_place(config: StudyConfig) -> None:
    """Refuse a place in the store that another study has, before anything is made.

    Raises:
        ShelfError: It holds checkpoints, or the store cannot be used.
    """
    if config.checkpoints.url is not None:
        from search.drive.store_shelf import StoreShelf

        StoreShelf(config.checkpoints.url, config.study).refuse_taken()


def claim_shelf(study: Study) -> None:
    """Take the place in the store for a study that is about to be searched.

    Raises:
        ShelfError: It holds checkpoints of another study, or the store cannot be used.
    """
    if study.config.checkpoints.url is None:
        return  # the folder was made with the study
    from search.drive.store_shelf import StoreShelf

    if (study.folder / FETCHED).exists():
        raise ShelfError(
            f"{study.folder} was fetched from a cluster, to which its checkpoints in"
            f" {study.config.checkpoints.url} belong; go on with it there"
        )
    owner = str(study.noted(OWNER) or "") or secrets.token_hex(8)
    study.note(OWNER, owner)  # first: killed in between, we may still take the place later
    StoreShelf(study.config.checkpoints.url, study.name, owner=owner).claim()


@contextmanager
def scratch() -> Iterator[Path]:
    """Give the path of a file that goes with the block: on its way to a shelf, or from there."""
    with TemporaryDirectory(prefix="fashion-shelf-") as folder:
        yield Path(folder) / "checkpoint.safetensors"
