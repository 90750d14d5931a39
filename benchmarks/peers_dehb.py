"""DEHB 0.1.2 through its ask and tell: differential evolution inside Hyperband."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from typing import Any

import numpy as np
from dehb import DEHB
from loguru import logger

from benchmarks.method import Job, MethodError, Point, Problem

_WORST = float(np.finfo(np.float64).max)
"""What a diverged trial is told: DEHB only compares, and takes infinity for not evaluated."""


class Dehb:
    """Each of DEHB's evaluations trains a configuration up to the fidelity asked for.

    A configuration that is promoted goes on from where it was. DEHB's configuration number is the
    trial's number, so an evaluation of what has been trained that far costs nothing.
    """

    def __init__(self, problem: Problem, workers: int, seed: int) -> None:
        """Make the optimizer; its own `n_workers` is for its `run`, which is not used."""
        if problem.max_epochs < 2:
            raise MethodError("method dehb needs tables of 2 epochs or more")
        with tempfile.TemporaryDirectory() as folder:
            self._dehb = DEHB(
                dimensions=problem.num_dimensions,
                min_fidelity=1,
                max_fidelity=problem.max_epochs,
                eta=3,
                n_workers=1,
                seed=seed,
                save_freq="end",
                output_path=folder,
            )
            # Its log file, and the thread that writes it, are not wanted.
            logger.remove()
        self._values: defaultdict[int, list[float]] = defaultdict(list)
        self._points: dict[int, Point] = {}
        self._diverged: set[int] = set()
        self._waiting: defaultdict[int, list[Any]] = defaultdict(list)

    def ask(self) -> Job:
        """Return the next evaluation that takes any training."""
        while True:
            wanted = self._dehb.ask()
            number, epoch = int(wanted["config_id"]), self._epoch(wanted)
            if number in self._diverged or len(self._values[number]) >= epoch:
                self._tell(wanted)
            elif self._waiting[number]:
                # Two brackets promoted it, and one worker has it in hand: it reports to both.
                self._waiting[number].append(wanted)
            else:
                self._waiting[number].append(wanted)
                known = number in self._points
                point = None if known else np.asarray(wanted["config"], dtype=np.float64)
                return Job(trial=number, point=point)

    def started(self, trial: int, point: Point) -> None:
        """Put the point that is run in the place of the one that was suggested."""
        self._points[trial] = point
        self._dehb.config_repository.configs[trial].config = point.copy()

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Tell the evaluations that end here, and go on if one does not."""
        if value is None:
            self._diverged.add(trial)
        else:
            self._values[trial].append(value)
        waiting = self._waiting.pop(trial)
        for wanted in waiting:
            if value is None or self._epoch(wanted) <= epoch:
                self._tell(wanted)
            else:
                self._waiting[trial].append(wanted)
        return bool(self._waiting[trial])

    def _epoch(self, wanted: Any) -> int:
        # Fidelities are R, R / 3, R / 9, ...
        return max(1, round(float(wanted["fidelity"])))

    def _tell(self, wanted: Any) -> None:
        number, epoch = int(wanted["config_id"]), self._epoch(wanted)
        diverged = number in self._diverged
        fitness = _WORST if diverged else -self._values[number][epoch - 1]
        wanted["config"] = self._points[number].copy()
        self._dehb.tell(wanted, {"fitness": fitness, "cost": float(epoch)})


dehb = Dehb
