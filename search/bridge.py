"""Ray Tune's side of the driver: a Searcher and a scheduler that only pass things on.

Tune asks the searcher for trials and the scheduler what to do after each epoch. Both answer from
one `search.driver.Driver`; nothing is kept here that the record does not hold. A trial of ours that
is handed out again (its worker died) is a new trial to Tune.
"""

from __future__ import annotations

import signal
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from model.train import EpochMetrics
from search.assignment import Assignment
from search.driver import Driver
from search.trial import FAILURE, METRICS, REMARK, TRIAL


class DriverSearcher(Searcher):
    """Hands the driver's assignments to Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(metric=None, mode=None)
        self._driver = driver
        self.trials: dict[str, int] = {}
        """Tune's trial id -> our trial number, for every assignment still open."""
        self.error: Exception | None = None
        """Why the driver could not go on; raised again by the tuner."""

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Accept Tune's properties: none is used."""
        return True

    # Ray's annotation leaves out the word FINISHED.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next assignment, None for none now, or that the search is finished."""
        try:
            assignment = self._driver.next()
        except Exception as error:
            self.error = error
            return str(Searcher.FINISHED)
        if assignment is not None:
            self.trials[trial_id] = assignment.trial
            return as_config(assignment)
        if self._driver.done and not self.trials:
            return str(Searcher.FINISHED)
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the driver of a worker that died; other ends it knows already."""
        number = self.trials.pop(trial_id, None)
        if error and number is not None:
            self._driver.on_lost(number, "the worker process died")

    def __getstate__(self) -> dict[str, Any]:
        # Tuner pickles its arguments for a restore that we never use; the driver stays here.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study's record is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class DriverScheduler(FIFOScheduler):
    """Passes each epoch to the driver and its verdict back to Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver
        self._placed: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the epoch and return Tune's word for the verdict."""
        number = int(result[TRIAL])
        if trial.trial_id not in self._placed:
            self._placed.add(trial.trial_id)
            self._driver.place(number, node=str(result["node"]), pid=int(result["pid"]))
        if result[FAILURE]:
            self._driver.on_failure(number, str(result[FAILURE]))
            return str(TrialScheduler.STOP)
        if result[REMARK]:
            self._driver.remark(number, str(result[REMARK]))
        # Tune flattens nested results: {"metrics": {"epoch": 1}} arrives as {"metrics/epoch": 1}.
        prefix = f"{METRICS}/"
        metrics = EpochMetrics(
            **{key.removeprefix(prefix): result[key] for key in result if key.startswith(prefix)}
        )
        verdict = self._driver.on_epoch(number, metrics)
        return str(TrialScheduler.CONTINUE if verdict.action == "continue" else TrialScheduler.STOP)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


def as_config(assignment: Assignment) -> dict[str, Any]:
    """Return an assignment as the plain dictionary that travels to a worker."""
    return {
        TRIAL: assignment.trial,
        "attempt": assignment.attempt,
        "configuration": assignment.configuration.to_dict(),
        "seed": assignment.seed,
        "checkpoint": str(assignment.checkpoint),
        "from_epoch": assignment.from_epoch,
    }


def stop_on_signals(driver: Driver) -> None:
    """Let SIGINT and SIGTERM end the search after the current epochs; a second one ends it at once.

    To be called after `ray.init`, which installs a SIGTERM handler of its own.
    """

    def handle(number: int, _: object) -> None:
        driver.stop(f"{signal.Signals(number).name} received")
        signal.signal(number, signal.default_int_handler)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
