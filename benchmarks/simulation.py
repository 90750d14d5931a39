"""Replay a table through a search method: k workers that do not wait for each other.

The clock is the table's own seconds; nothing is trained. A worker runs one epoch, the method is
told its value and says whether to go on; a worker without a trial asks at once.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.curve_table import CurveTable
from benchmarks.method import Job, Method, Point


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What one run came to."""

    spent: NDArray[np.float64]
    """(k,) in full trainings: when the configuration to return changed."""
    finals: NDArray[np.float64]
    """(k,) what it would reach after its last epoch; NaN where it diverges before."""
    total: float
    """Full trainings spent in all: less than the budget where no row was left to run."""
    trials: int
    duplicates: float
    """The share of suggestions whose nearest row had been run already."""
    ask_seconds: NDArray[np.float64]
    """(asks,) wall time of each ask, that of `started` included."""
    thinking: float
    """Wall seconds in the method per second of training, as the table counts seconds."""


@dataclass(kw_only=True, slots=True)
class _Trial:
    row: int
    epoch: int = 0
    running: bool = False
    ended: bool = False


def simulate(table: CurveTable, method: Method, *, workers: int, budget: float) -> Course:
    """Run `method` until the budget, in full trainings, is spent.

    What is counted is the seconds of finished epochs, summed over the workers. The configuration
    to return is the one with the best value seen so far at any epoch, the later one of equals.
    A worker for which no row is left rests; the others finish what they run.
    """
    return _Simulation(table, method, workers, budget).run()


class _Simulation:
    def __init__(self, table: CurveTable, method: Method, workers: int, budget: float) -> None:
        self._table, self._method, self._workers = table, method, workers
        self._allowed = budget * table.full_seconds
        self._unused = np.ones(table.num_rows, dtype=bool)
        self._trials: dict[int, _Trial] = {}
        self._queue: list[tuple[float, int, int]] = []  # time, order of arrival, trial
        self._sequence = 0
        self._seconds = 0.0
        self._best = -math.inf
        self._course: list[tuple[float, float]] = []
        self._duplicates = 0
        self._ask_seconds: list[float] = []
        self._report_seconds = 0.0

    def run(self) -> Course:
        for _ in range(self._workers):
            self._assign(0.0)
        while self._queue and self._seconds < self._allowed:
            now, _, trial = heapq.heappop(self._queue)
            if self._finish_epoch(trial):
                self._begin_epoch(trial, now)
            else:
                self._assign(now)
        course = np.array(self._course, dtype=np.float64).reshape(-1, 2)
        thinking = math.fsum(self._ask_seconds) + self._report_seconds
        return Course(
            spent=course[:, 0] / self._table.full_seconds,
            finals=course[:, 1],
            total=self._seconds / self._table.full_seconds,
            trials=len(self._trials),
            duplicates=self._duplicates / len(self._trials) if self._trials else 0.0,
            ask_seconds=np.array(self._ask_seconds),
            thinking=thinking / self._seconds if self._seconds else 0.0,
        )

    def _assign(self, now: float) -> None:
        begun = time.perf_counter()
        job = self._method.ask()
        took = time.perf_counter() - begun
        if job.point is None:
            self._resume(job, now)
        else:
            row = self._match(job.point)
            if row is None:
                return
            if job.trial in self._trials:
                raise ValueError(f"the method gave the number {job.trial} to two trials")
            self._trials[job.trial] = _Trial(row=row)
            begun = time.perf_counter()
            self._method.started(job.trial, self._table.points[row].copy())
            took += time.perf_counter() - begun
            self._begin_epoch(job.trial, now)
        self._ask_seconds.append(took)

    def _resume(self, job: Job, now: float) -> None:
        trial = self._trials.get(job.trial)
        if trial is None or trial.running or trial.ended:
            state = "unknown" if trial is None else "running" if trial.running else "at its end"
            raise ValueError(f"the method went on with trial {job.trial}, which is {state}")
        self._begin_epoch(job.trial, now)

    def _match(self, point: Point) -> int | None:
        if point.shape != (self._table.points.shape[1],) or not np.isfinite(point).all():
            raise ValueError(f"the method suggested {point}, which is no point of the cube")
        distances = ((self._table.points - np.clip(point, 0.0, 1.0)) ** 2).sum(axis=1)
        nearest = int(distances.argmin())
        if not self._unused[nearest]:
            if not self._unused.any():
                return None
            self._duplicates += 1
            nearest = int(np.where(self._unused, distances, np.inf).argmin())
        self._unused[nearest] = False
        return nearest

    def _begin_epoch(self, number: int, now: float) -> None:
        trial = self._trials[number]
        trial.running = True
        self._sequence += 1
        heapq.heappush(self._queue, (now + self._epoch_seconds(trial), self._sequence, number))

    def _epoch_seconds(self, trial: _Trial) -> float:
        seconds = self._table.seconds[trial.row]
        before = seconds[trial.epoch - 1] if trial.epoch else 0.0
        return float(seconds[trial.epoch] - before)

    def _finish_epoch(self, number: int) -> bool:
        """Count the epoch, tell the method, and return whether the worker stays with the trial."""
        trial = self._trials[number]
        self._seconds += self._epoch_seconds(trial)
        value = float(self._table.values[trial.row, trial.epoch])
        trial.epoch += 1
        trial.running = False
        diverged = math.isnan(value)
        trial.ended = diverged or trial.epoch == self._table.max_epochs
        if not diverged and value >= self._best:
            self._best = value
            self._course.append((self._seconds, float(self._table.finals[trial.row])))
        begun = time.perf_counter()
        go_on = self._method.report(number, trial.epoch, None if diverged else value)
        self._report_seconds += time.perf_counter() - begun
        return go_on and not trial.ended
