"""Random search: every configuration is trained to its last epoch."""

from __future__ import annotations

import numpy as np

from benchmarks.method import Job, Point, Problem


class RandomPoints:
    """Numbers trials from 0 and draws their points evenly from the cube."""

    def __init__(self, problem: Problem, seed: int) -> None:
        """Draw from a generator of our own."""
        self._generator = np.random.default_rng(seed)
        self._dimensions = problem.num_dimensions
        self._count = 0

    def next_job(self) -> Job:
        """Return the next trial."""
        job = Job(trial=self._count, point=self._generator.random(self._dimensions))
        self._count += 1
        return job


class RandomSearch:
    """Never stops a trial."""

    def __init__(self, problem: Problem, workers: int, seed: int) -> None:
        """Take `workers` only to be made like the others."""
        self._points = RandomPoints(problem, seed)

    def ask(self) -> Job:
        """Return a new trial."""
        return self._points.next_job()

    def started(self, trial: int, point: Point) -> None:
        """Do nothing."""

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Go on."""
        return True


random_search = RandomSearch
