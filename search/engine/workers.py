"""One worker process a slot: a trial waits for the worker of its slot, and takes no other's.

Left to itself, Tune gives the worker of a trial that has ended to any trial that still waits for
its own to start, and ends that: where trials are shorter than a worker takes to start, one worker
does all the work and the other slots, or nodes, never get any. So every slot has its own name, by
which Tune tells workers apart, and a worker that is free is kept for its slot.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ray.tune.utils.object_cache import _ObjectCache


class Seats:
    """Which slots of one kind are taken."""

    def __init__(self) -> None:
        """Start without a worker."""
        self._warm: list[int] = []
        """Free, and their workers wait."""
        self._cold: list[int] = []
        """Free, without a worker."""
        self._taken: dict[str, int] = {}

    def take(self, trial_id: str) -> int:
        """Return the slot of a trial: where a worker waits, if there is such a one."""
        free = self._warm or self._cold
        slot = free.pop() if free else len(self._taken)
        self._taken[trial_id] = slot
        return slot

    def leave(self, trial_id: str, *, with_worker: bool) -> None:
        """Free the slot of a trial, if it has one; tell whether its worker is left."""
        slot = self._taken.pop(trial_id, None)
        if slot is not None:
            (self._warm if with_worker else self._cold).append(slot)

    def chill(self) -> None:
        """Note that the workers of all free slots are gone."""
        self._cold, self._warm = [*self._cold, *self._warm], []

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._taken

    def __len__(self) -> int:
        return len(self._taken)


def bundle(threads: int, gpus: float, slot: int) -> dict[str, float]:
    """Return what Ray is to give the worker of a slot.

    Its bytes of memory are its name: Ray does not keep processes to them, and Tune takes workers
    with the same needs for the same.
    """
    needs = {"CPU": float(threads), "memory": float(slot + 1)}
    return needs | ({"GPU": gpus} if gpus else {})


def workers_of(controller: Any) -> Workers:
    """Return the free workers of Tune's controller, which keeps them for their slots."""
    inner = getattr(controller, "_tune_controller", controller)  # a scheduler is given a wrapper
    if not isinstance(inner._actor_cache, Workers):
        inner._actor_cache = Workers()
    kept: Workers = inner._actor_cache
    return kept


class Workers(_ObjectCache):
    """Tune's store of free workers, which keeps them all, until they are to go."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._let_go = False

    def let_go(self) -> None:
        """Let all that are free now go, and their resources with them."""
        self._let_go = True

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep a worker."""
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any, None, None]:
        """Yield those that go."""
        go, self._let_go = force_all or self._let_go, False
        if go:
            yield from super().flush_cached_objects(force_all=True)
