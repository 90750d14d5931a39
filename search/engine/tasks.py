"""Work that is no trial, on the nodes of a cluster: a task a piece, each yielding as it goes.

A piece whose node is lost begins again on another one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import ray

from search.engine.cluster import Cluster
from search.machine.slots import Slots
from search.study_error import StudyError

_MOST_LOSSES = 12  # as many nodes as a trial may lose
_WAIT_SECONDS = 0.5


class Again:
    """Yielded when a piece begins from its start again."""


def spread(
    cluster: Cluster,
    function: Callable[..., Generator[Any, None, None]],
    pieces: Mapping[str, tuple[Any, ...]],
    slots: Slots,
) -> Generator[tuple[str, Any], None, None]:
    """Run `function(*arguments)` for every piece on some node; yield (name of the piece, item).

    As many pieces at a time as there is room for. Broken off, it ends what runs.

    Args:
        cluster: Joined.
        function: A generator function at the top level of one of our modules.
        pieces: Arguments by name; a list of one reference to images stands for the images.
        slots: What each piece gets.

    Raises:
        StudyError: A piece has lost its worker too often.
        Exception: What the function raises.
    """
    # Ray Client cannot stream: there all items of a piece come with its end.
    streams = not cluster.is_remote
    remote: Any = ray.remote(_stream if streams else _all)
    task = remote.options(
        num_cpus=slots.threads,
        num_gpus=slots.gpus,
        num_returns="streaming" if streams else 1,
        max_retries=0,
        name=function.__name__,
    )
    running: dict[str, Any] = {
        name: task.remote(function, *arguments) for name, arguments in pieces.items()
    }
    losses = dict.fromkeys(pieces, 0)
    try:
        while running:
            ready: list[Any]
            ready, _ = ray.wait(list(running.values()), timeout=_WAIT_SECONDS)
            for generator in ready:
                name = next(n for n, other in running.items() if other == generator)
                try:
                    items = [ray.get(next(generator))] if streams else ray.get(generator)
                except StopIteration:
                    del running[name]
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
                except ray.exceptions.RayError as error:
                    losses[name] += 1
                    if losses[name] >= _MOST_LOSSES:
                        raise StudyError(
                            f"{name} has lost its worker {losses[name]} times (out of memory?)"
                        ) from error
                    running[name] = task.remote(function, *pieces[name])
                    yield name, Again()
                    continue
                yield from ((name, item) for item in items)
                if not streams:
                    del running[name]
    finally:
        for generator in running.values():
            ray.cancel(generator, force=True)


def _stream(
    function: Callable[..., Generator[Any, None, None]], *arguments: Any
) -> Generator[Any, None, None]:
    yield from function(*arguments)


def _all(function: Callable[..., Generator[Any, None, None]], *arguments: Any) -> list[Any]:
    return list(function(*arguments))
