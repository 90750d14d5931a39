"""Syne Tune 0.16's asynchronous multi-fidelity schedulers, called as its Tuner calls them.

All of them stop trials and pause none; grace period 1, eta 3 and the rest are its defaults.
"""

from __future__ import annotations

import logging
import warnings
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import uniform
from syne_tune.optimizer.baselines import ASHA, ASHABORE, ASHACQR, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision

from benchmarks.method import Job, Point, Problem

_METRIC, _TIME = "value", "epoch"


class SyneTune:
    """One of Syne Tune's schedulers."""

    def __init__(self, problem: Problem, workers: int, seed: int, *, scheduler: Any) -> None:
        """Make the scheduler with its defaults; `workers` is no option of it."""
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        # Brackets, and the kernel density searcher's random configurations, come from there.
        np.random.seed(seed)
        self._space = {f"x{i}": uniform(0.0, 1.0) for i in range(problem.num_dimensions)}
        self._scheduler = scheduler(
            self._space,
            metric=_METRIC,
            time_attr=_TIME,
            max_t=problem.max_epochs,
            do_minimize=False,
            random_seed=seed,
        )
        self._trials: dict[int, Any] = {}
        self._count = 0

    def ask(self) -> Job:
        """Return the scheduler's suggestion."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of statsmodels, on options Syne Tune sets
            suggestion = self._scheduler.suggest()
        assert suggestion is not None and suggestion.spawn_new_trial_id
        trial = self._count
        self._count += 1
        return Job(trial=trial, point=np.array([suggestion.config[name] for name in self._space]))

    def started(self, trial: int, point: Point) -> None:
        """Add the trial with the point that is run."""
        config = dict(zip(self._space, point.tolist(), strict=True))
        # The schedulers do not look at the time of creation.
        self._trials[trial] = Trial(trial_id=trial, config=config, creation_time=datetime.min)
        self._scheduler.on_trial_add(self._trials[trial])

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Ask the scheduler; a diverged trial has failed."""
        if value is None:
            self._scheduler.on_trial_error(self._trials[trial])
            return False
        result = {_METRIC: value, _TIME: epoch}
        decision = self._scheduler.on_trial_result(self._trials[trial], result)
        if decision == SchedulerDecision.CONTINUE:
            return True
        self._scheduler.on_trial_remove(self._trials[trial])
        return False


asha = partial(SyneTune, scheduler=ASHA)
asha_cqr = partial(SyneTune, scheduler=ASHACQR)
asha_bore = partial(SyneTune, scheduler=ASHABORE)
bohb = partial(SyneTune, scheduler=BOHB)
