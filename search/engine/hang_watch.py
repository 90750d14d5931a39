"""Workers that are silent for too long are ended: Tune has no limit of its own."""

from __future__ import annotations

from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from search.drive.driver import Driver
from search.engine.bridge import DriverScheduler, DriverSearcher
from search.record.study import trial_name


class HangWatch(Callback):
    """Ends workers that are taken for hung."""

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
        hung = self._driver.flight.hung()
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
        return {}  # Tuner pickles its arguments for a restore that we never use
