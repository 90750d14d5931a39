"""What the benchmark asks of a search method, and the methods there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
"""(d,) in the unit cube; logarithmic dimensions are even in the logarithm."""

METHODS = {
    "ours": "benchmarks.ours:ours",
    "ours-audited": "benchmarks.ours:ours_audited",
    "ours-stopping": "benchmarks.ours:ours_stopping",
    "ours-random": "benchmarks.ours:ours_random",
    "ours-tpe": "benchmarks.ours:ours_tpe",
    "random": "benchmarks.peers_random:random_search",
    "random-asha": "benchmarks.peers_ray:random_asha",
    "random-asha-r1e3": "benchmarks.peers_ray:random_asha_r1e3",
    "random-asha-r2e4": "benchmarks.peers_ray:random_asha_r2e4",
    "random-asha-r3e3": "benchmarks.peers_ray:random_asha_r3e3",
    "ray-optuna-asha": "benchmarks.peers_ray:ray_optuna_asha",
    "optuna-tpe-sha": "benchmarks.peers_optuna:tpe_successive_halving",
    "optuna-tpe-hyperband": "benchmarks.peers_optuna:tpe_hyperband",
    "syne-asha": "benchmarks.peers_syne:asha",
    "syne-asha-cqr": "benchmarks.peers_syne:asha_cqr",
    "syne-asha-bore": "benchmarks.peers_syne:asha_bore",
    "syne-bohb": "benchmarks.peers_syne:bohb",
    "dehb": "benchmarks.peers_dehb:dehb",
}
"""Name -> "module:factory". Loaded when asked for: a peer's package may be missing."""

_NEEDED = {"syne-asha-cqr": "huggingface_hub"}
"""Packages that a method's library imports only when it is used, and does not declare."""

_PIP = {
    "ray": "'ray[tune]'",
    "optuna": "optuna",
    "syne_tune": "syne-tune==0.16.0",
    "huggingface_hub": "huggingface-hub",
    # It asks for numpy below 2, and runs with 2.
    "dehb": "--no-deps dehb==0.1.2",
    "ConfigSpace": "ConfigSpace",
    "distributed": "distributed",
    "loguru": "loguru",
}
"""Package as imported -> what pip is to install."""


class MethodError(ValueError):
    """A method that there is not or that cannot be loaded; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What a method may know of a table before it starts."""

    names: tuple[str, ...]
    """The dimensions' names."""
    max_epochs: int
    budget: float
    """In full trainings: the run's training seconds over those of the median configuration."""

    @property
    def num_dimensions(self) -> int:
        """Return d."""
        return len(self.names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a free worker is to do."""

    trial: int
    """The method's own number for it; new with a point, known without."""
    point: Point | None
    """Where to start a new trial; None goes on with this paused one after its last epoch."""


class Method(Protocol):
    """A search method. Values are turned so that higher is better."""

    def ask(self) -> Job:
        """Return a free worker's next job."""

    def started(self, trial: int, point: Point) -> None:
        """Take note of the point that is really run: the nearest row of the table not run yet."""

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Take the value after `epoch` (1-based) and return whether to go on.

        None is a diverged trial, which has ended, as has a trial at the last epoch: what is
        returned then is ignored. A trial that does not go on is paused: `ask` may go on with it.
        """


Factory = Callable[[Problem, int, int], Method]
"""(problem, number of workers, seed) -> method."""


def load_factory(name: str) -> Factory:
    """Return the method called `name`.

    Raises:
        MethodError: There is no such method, or its package is not installed.
    """
    if name not in METHODS:
        raise MethodError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    try:
        if name in _NEEDED:
            importlib.import_module(_NEEDED[name])
        return cast(Factory, getattr(importlib.import_module(module), attribute))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PIP:
            raise MethodError(f"method {name} cannot be loaded: {error}") from error
        raise MethodError(
            f"method {name} needs the package {missing}, which is not installed: "
            f"run python -m pip install {_PIP[missing]}"
        ) from error
