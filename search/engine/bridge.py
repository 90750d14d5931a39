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
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.failure import Failure, of_dead_worker
from search.engine.trial import ASSIGNMENT, FAILURE, METRICS, ON_CPU, REMARK, SLOT, TRIAL
from search.engine.workers import Seats, Workers, workers_of
from search.prune.assignment import Assignment

_GLANCE_SECONDS = 0.2
_PATIENCE_SECONDS = 15.0
"""That a trial waits for a worker before those that are idle go, and leave it their room."""


class DriverSearcher(Searcher):
    """Hands the driver's assignments to Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(metric=None, mode=None)
        self._driver = driver
        self.trials: dict[str, int] = {}
        """Tune's trial id -> our trial number, for every assignment still open."""
        self._gpu_slots: Callable[[], int] | None = None
        self._seats, self._seats_on_cpu = Seats(), Seats()
        self._with_worker: set[str] = set()
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
        left = trial_id in self._with_worker and not error
        for seats in (self._seats, self._seats_on_cpu):
            seats.leave(trial_id, with_worker=left)
        self._with_worker.discard(trial_id)

    def has_worker(self, trial_id: str) -> None:
        """Note that a trial has come to the worker of its slot."""
        self._with_worker.add(trial_id)

    def lacks_gpu(self, trial_id: str) -> bool:
        """Return whether a trial waits for a GPU where no node has one any more."""
        return self._gpu_slots is not None and trial_id in self._seats and not self._gpu_slots()

    def chill(self) -> None:
        """Note that the workers of all free slots are gone."""
        for seats in (self._seats, self._seats_on_cpu):
            seats.chill()

    def __getstate__(self) -> dict[str, Any]:
        # Tuner pickles its arguments for a restore that we never use; the driver stays here.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's record is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Nodes(Protocol):
    """The nodes of a cluster, as `search.engine.membership` follows them."""

    def name_of(self, node: str) -> str:
        """Return what the record calls a node, from Ray's id."""

    def look(self) -> None:
        """See who is there, and give the driver its slots."""


class DriverScheduler(FIFOScheduler):
    """Passes each epoch, and each failure, to the driver and its verdict back to Tune."""

    def __init__(
        self,
        driver: Driver,
        searcher: DriverSearcher,
        nodes: Nodes | None = None,
    ) -> None:
        """Pass on to a driver; `nodes` are those of a cluster."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver, self._searcher, self._nodes = driver, searcher, nodes
        self._placed: set[str] = set()
        self._killed_for_memory, self._counted_at = _killed_for_memory(), time.monotonic()
        self.hung: dict[str, str] = {}
        """Tune's trial id -> why `HangWatch` has ended its worker."""
        self._waiting: dict[str, tuple[Trial, float]] = {}
        self._looked_at = 0.0
        self._room_is_short = False

    def node_lost(self) -> None:
        """Note that some of the free workers may be gone with a node: none is used any more."""
        self._room_is_short = True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Note that a trial waits for a worker."""
        self._waiting[trial.trial_id] = (trial, time.monotonic())
        super().on_trial_add(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that Tune starts next, on workers that are kept for their slots."""
        workers = workers_of(tune_controller)
        if time.monotonic() - self._looked_at > _GLANCE_SECONDS:
            self._looked_at = time.monotonic()
            self._look_after_waiting(tune_controller, workers)
        return super().choose_trial_to_run(tune_controller)

    def _look_after_waiting(self, tune_controller: Any, workers: Workers) -> None:
        """Make room for trials that wait for a worker, or take them back where none will come."""
        for trial_id, (trial, since) in list(self._waiting.items()):
            number = self._searcher.trials.get(trial_id)
            if number is None or trial.status != Trial.PENDING:
                del self._waiting[trial_id]
                continue
            ending = self._driver.ends_now or self._searcher.error is not None
            if ending or self._searcher.lacks_gpu(trial_id):
                del self._waiting[trial_id]
                if self._searcher.error is None:
                    self._driver.take_back(number, "no worker had come to it")
                tune_controller.stop_trial(trial)
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                self._room_is_short = True  # or others hold the room; what is idle goes
        if self._room_is_short and workers.num_cached_objects:
            workers.let_go()
            self._searcher.chill()
        self._room_is_short = False

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
            if self._nodes is not None:
                self._nodes.look()  # or the trial is handed out again to a slot that is gone
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
            self._searcher.has_worker(trial.trial_id)
            # Before the step writes: a node that is new is recorded by a transaction of its own.
            nodes, node = self._nodes, str(result["node"])
            node = node if nodes is None else nodes.name_of(result["node_id"])
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
