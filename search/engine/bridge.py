"""Ray Tune's side of the driver: a Searcher and a scheduler that only pass things on.

Tune asks the searcher for trials and the scheduler what to do after each epoch. Both answer from
one `search.drive.driver.Driver`; nothing is kept here that the record does not hold. A trial of
ours that is handed out again (its worker died) is a new trial to Tune.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.failure import Failure, of_dead_worker
from search.engine.trial import ASSIGNMENT, FAILURE, METRICS, ON_CPU, REMARK, SLOT, TRIAL
from search.engine.workers import Seats, keep_workers
from search.prune.assignment import Assignment
from search.record.study import trial_name

_GLANCE_SECONDS = 0.2


class DriverSearcher(Searcher):
    """Hands the driver's assignments to Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(metric=None, mode=None)
        self._driver = driver
        self.trials: dict[str, int] = {}
        """Tune's trial id -> our trial number, for every assignment still open."""
        self._gpu_slots: Callable[[], int] | None = None
        self._seats, self._seats_on_cpu = Seats(), Seats()
        self.error: Exception | None = None
        """Why the driver could not go on; raised again by the tuner."""

    def spread_over(self, gpu_slots: Callable[[], int]) -> None:
        """Send trials to nodes without a GPU where the GPUs hold no more of them."""
        self._gpu_slots = gpu_slots

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Accept Tune's properties: none is used."""
        return True

    # Ray's annotation leaves out the word FINISHED.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next assignment, None for none now, or that the search is finished."""
        if self.error is not None:
            return str(Searcher.FINISHED)
        try:
            assignment = self._driver.next()
        except Exception as error:
            self.error = error
            return str(Searcher.FINISHED)
        if assignment is not None:
            self.trials[trial_id] = assignment.trial
            on_cpu = self._gpu_slots is not None and len(self._seats) >= self._gpu_slots()
            if on_cpu:
                self._driver.flight.slow_down(assignment.trial)
            seats = self._seats_on_cpu if on_cpu else self._seats
            given = {ON_CPU: on_cpu, SLOT: seats.take(trial_id)}
            return {ASSIGNMENT: json.dumps(as_config(assignment)), **given}
        if self._driver.done and not self.trials:
            return str(Searcher.FINISHED)
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forget an assignment; the driver knows of its end, see `DriverScheduler`."""
        self.trials.pop(trial_id, None)
        for seats in (self._seats, self._seats_on_cpu):
            seats.leave(trial_id, with_worker=not error)

    def __getstate__(self) -> dict[str, Any]:
        # Tuner pickles its arguments for a restore that we never use; the driver stays here.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's record is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class DriverScheduler(FIFOScheduler):
    """Passes each epoch, and each failure, to the driver and its verdict back to Tune."""

    def __init__(
        self,
        driver: Driver,
        searcher: DriverSearcher,
        name_of: Callable[[str], str] | None = None,
    ) -> None:
        """Pass on to a driver; `name_of` tells what the record calls a node, from Ray's id."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver, self._searcher, self._name_of = driver, searcher, name_of
        self._placed: set[str] = set()
        self._killed_for_memory, self._counted_at = _killed_for_memory(), time.monotonic()
        self.hung: dict[str, str] = {}
        """Tune's trial id -> why `HangWatch` has ended its worker."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that Tune starts next, on workers that are kept for their slots."""
        keep_workers(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the epoch and return Tune's word for the verdict."""
        if self._searcher.error is not None:
            return str(TrialScheduler.STOP)
        self._count_the_killed()
        try:
            with self._driver.step():
                goes_on = self._on_result(trial, result)
        except Exception as error:
            # The record cannot be written: nothing more may happen that it would not hold.
            self._searcher.error = self._searcher.error or error
            goes_on = False
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Tell the driver of a worker that died."""
        number = self._searcher.trials.get(trial.trial_id)
        if number is None:
            return
        if reason := self.hung.pop(trial.trial_id, ""):
            failure = Failure(kind="hung", reason=reason)
        else:
            before, self._killed_for_memory = self._killed_for_memory, _killed_for_memory()
            memory = self._killed_for_memory > before
            failure = of_dead_worker(_said_of(trial), killed_for_memory=memory)
        try:
            self._driver.on_failure(number, failure)
        except Exception as error:
            self._searcher.error = self._searcher.error or error

    def _count_the_killed(self) -> None:
        # A glance takes a tenth of a millisecond: not for each of a thousand results a second.
        now = time.monotonic()
        if now - self._counted_at > _GLANCE_SECONDS:
            self._counted_at, self._killed_for_memory = now, _killed_for_memory()

    def _on_result(self, trial: Trial, result: dict[str, Any]) -> bool:
        number = int(result[TRIAL])
        if trial.trial_id not in self._placed:
            self._placed.add(trial.trial_id)
            # Before the step writes: a node that is new is recorded by a transaction of its own.
            node = self._name_of(result["node_id"]) if self._name_of else str(result["node"])
            self._driver.place(number, node=node, pid=int(result["pid"]))
        if result[FAILURE]:
            self._driver.on_failure(number, Failure(**json.loads(result[FAILURE])))
            return False
        if result[REMARK]:
            self._driver.remark(number, str(result[REMARK]))
        # Tune flattens nested results: {"metrics": {"epoch": 1}} arrives as {"metrics/epoch": 1}.
        prefix = f"{METRICS}/"
        metrics = EpochMetrics(
            **{key.removeprefix(prefix): result[key] for key in result if key.startswith(prefix)}
        )
        return self._driver.on_epoch(number, metrics).action == "continue"

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


class HangWatch(Callback):
    """Ends workers that are taken for hung: Tune has no limit of its own."""

    def __init__(
        self,
        driver: Driver,
        scheduler: DriverScheduler,
        searcher: DriverSearcher,
        *,
        waits_for_nodes: bool = False,
    ) -> None:
        """Watch over a driver's trials; on a cluster they may wait for a node to come."""
        self._driver, self._scheduler, self._searcher = driver, scheduler, searcher
        self._waits_for_nodes = waits_for_nodes

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Kill the worker of every trial in flight that is silent for too long."""
        hung = self._driver.hung()
        for trial in trials if hung else ():
            number = self._searcher.trials.get(trial.trial_id)
            if number not in hung or trial.trial_id in self._scheduler.hung:
                continue
            actor = trial.temporary_state.ray_actor
            if actor is None and self._waits_for_nodes:
                self._driver.flight.excuse(number)
                continue
            if actor is None:
                # Tune would wait for ever, and has no way to give it up.
                self._searcher.error = ValueError(
                    f"Ray starts no worker for {trial_name(number)} ({hung[number]}): too little"
                    " memory, or the machine is overloaded; resume when that is mended"
                )
                raise self._searcher.error
            self._scheduler.hung[trial.trial_id] = hung[number]
            ray.kill(actor)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


def as_config(assignment: Assignment) -> dict[str, Any]:
    """Return an assignment as the plain dictionary that travels to a worker."""
    return {
        TRIAL: assignment.trial,
        "attempt": assignment.attempt,
        "configuration": assignment.configuration.to_dict(),
        "seed": assignment.seed,
        "from_epoch": assignment.from_epoch,
    }


def _said_of(trial: Trial) -> str:
    # Tune keeps what Ray said in a file, and lets nobody else know.
    try:
        return Path(str(trial.error_file)).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""


def _killed_for_memory() -> int:
    """Return how many processes this machine has killed for want of memory; 0 where not Linux."""
    try:
        counters = Path("/proc/vmstat").read_text(encoding="ascii").split()
        return int(counters[counters.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0
