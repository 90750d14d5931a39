"""Our worker, which also writes down when it is about to train a trial's first batch."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.trials_study import note
from model.train import EpochMetrics
from search.engine.trial import TrialWorker

STARTS = "TRIALS_STARTS"
"""Environment variable: the file that the times are added to."""


class TimedWorker(TrialWorker):
    """Trains as `TrialWorker` does."""

    def _start(self) -> Iterator[EpochMetrics]:
        epochs = super()._start()
        note(os.environ[STARTS], self._trial)
        return epochs
