"""What Ray Tune 2.60 offers: its ASHA, with random search and with its OptunaSearch.

Ray's own classes are called in the order in which Tune's controller calls them
(ray/tune/execution/tune_controller.py); Ray itself is not started.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.method import Job, Point, Problem
from benchmarks.peers_random import RandomPoints

_METRIC, _TIME = "value", "training_iteration"
_NO_CONTROLLER: Any = None


@dataclass
class _Trial:
    """As much of Tune's Trial as the scheduler looks at."""

    trial_id: str


class _Asha:
    """Ray's stopping ASHA; the defaults are Ray's own."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        grace_period: int = 1,
        reduction_factor: float = 4,
    ) -> None:
        np.random.seed(seed)  # the scheduler draws brackets from numpy's global generator
        self._scheduler = AsyncHyperBandScheduler(
            time_attr=_TIME,
            metric=_METRIC,
            mode="max",
            max_t=problem.max_epochs,
            grace_period=min(grace_period, problem.max_epochs),
            reduction_factor=reduction_factor,
        )
        self._trials: dict[int, Any] = {}

    def add(self, trial: int) -> None:
        self._trials[trial] = _Trial(str(trial))
        self._scheduler.on_trial_add(_NO_CONTROLLER, self._trials[trial])

    def result(self, number: int, epoch: int, value: float) -> bool:
        trial = self._trials[number]
        result = {_TIME: epoch, _METRIC: value}
        decision = self._scheduler.on_trial_result(_NO_CONTROLLER, trial, result)
        if decision == TrialScheduler.STOP:
            self._scheduler.on_trial_complete(_NO_CONTROLLER, trial, result)
        return bool(decision == TrialScheduler.CONTINUE)

    def error(self, trial: int) -> None:
        self._scheduler.on_trial_error(_NO_CONTROLLER, self._trials[trial])


class RandomAsha:
    """Random points and Ray's ASHA. A diverged trial is one that raised."""

    def __init__(
        self,
        problem: Problem,
        workers: int,
        seed: int,
        *,
        grace_period: int = 1,
        reduction_factor: float = 4,
    ) -> None:
        """Take AsyncHyperBandScheduler's options; `workers` is none of them."""
        self._points = RandomPoints(problem, seed)
        self._asha = _Asha(
            problem, seed, grace_period=grace_period, reduction_factor=reduction_factor
        )

    def ask(self) -> Job:
        """Return a new trial."""
        return self._points.next_job()

    def started(self, trial: int, point: Point) -> None:
        """Add the trial to the scheduler."""
        self._asha.add(trial)

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Ask the scheduler."""
        if value is None:
            self._asha.error(trial)
            return False
        return self._asha.result(trial, epoch, value)


class RayOptunaAsha:
    """Stock OptunaSearch (its sampler is Optuna's default TPE) and Ray's ASHA.

    The controller tells the searcher a result only if the trial goes on, and the last result at
    the end, whether the trial was stopped or done.
    """

    def __init__(self, problem: Problem, workers: int, seed: int) -> None:
        """Make the searcher as its documentation does; `workers` limits nothing here."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        self._space: dict[str, BaseDistribution] = {
            f"x{i}": FloatDistribution(0.0, 1.0) for i in range(problem.num_dimensions)
        }
        self._searcher = OptunaSearch(space=self._space, metric=_METRIC, mode="max", seed=seed)
        self._asha = _Asha(problem, seed)
        self._count = 0

    def ask(self) -> Job:
        """Return the searcher's suggestion."""
        trial = self._count
        self._count += 1
        suggested = self._searcher.suggest(str(trial))
        assert suggested is not None
        return Job(trial=trial, point=np.array([suggested[name] for name in self._space]))

    def started(self, trial: int, point: Point) -> None:
        """Put the point that is run in the place of the one that was suggested."""
        study: Any = self._searcher._ot_study
        key = self._searcher._ot_trials[str(trial)]._trial_id
        for (name, distribution), value in zip(self._space.items(), point, strict=True):
            study._storage.set_trial_param(key, name, float(value), distribution)
        self._asha.add(trial)

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Tell the scheduler, then the searcher what it is told."""
        if value is None:
            self._asha.error(trial)
            self._searcher.on_trial_complete(str(trial), error=True)
            return False
        go_on = self._asha.result(trial, epoch, value)
        result = {_TIME: epoch, _METRIC: value}
        if go_on:
            self._searcher.on_trial_result(str(trial), result)
        else:
            self._searcher.on_trial_complete(str(trial), result=result)
        return go_on


random_asha = RandomAsha
random_asha_r1e3 = partial(RandomAsha, grace_period=1, reduction_factor=3)
random_asha_r2e4 = partial(RandomAsha, grace_period=2, reduction_factor=4)
random_asha_r3e3 = partial(RandomAsha, grace_period=3, reduction_factor=3)
ray_optuna_asha = RayOptunaAsha
