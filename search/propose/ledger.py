"""Write trials to Optuna's own tables of a study, which open in optuna-dashboard.

The database is written, never read to decide: what is proposed comes from a study in memory that is
told the same, by this very class. Reading the database back would take longer with every trial that
waits for its promotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import InMemoryStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from search.propose.fidelity_sampler import UNTRAINABLE

_OF_AN_END = ("reason", "failure", "infeasible", UNTRAINABLE)
"""Facts that are noted with a trial's end."""


class Ledger:
    """Writes trials to one Optuna study."""

    def __init__(self, study: optuna.Study) -> None:
        self._study, self._storage = study, study._storage

    def add(self, template: FrozenTrial) -> None:
        """Write a new trial whole, in one transaction; Optuna gives it the next number."""
        made = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        number = self._storage.get_trial_number_from_id(made)
        assert number == template.number, "another process writes to this study"

    def report(self, number: int, epoch: int, value: float) -> None:
        """Write the value of one epoch; one that was written before is replaced."""
        # Not `Trial.report`, which keeps the first value of an epoch that is trained again.
        self._storage.set_trial_intermediate_value(self._key(number), epoch, value)

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Write facts (JSON-plain) on a trial."""
        for key, value in facts.items():
            self._storage.set_trial_user_attr(self._key(number), key, value)

    def end(
        self, number: int, state: TrialState, value: float | None, facts: Mapping[str, Any]
    ) -> None:
        """End a trial; its value counts only where it is complete. Its state changes last."""
        self.note(number, facts)
        self._study.tell(number, value if state == TrialState.COMPLETE else None, state=state)

    def reopen(self, number: int) -> None:
        """Let a trial that has ended run again, as if it had not; its epochs stay.

        Optuna has no call for it: what is over is not changed, nor read again.
        """
        key, storage = self._key(number), self._storage
        if isinstance(storage, InMemoryStorage):
            trial = copy(storage.get_trial(key))  # whoever has read it keeps what it was
            trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
            facts = trial.user_attrs.items()
            trial.user_attrs = {fact: value for fact, value in facts if fact not in _OF_AN_END}
            with storage._lock:
                storage._set_trial(key, trial)
            return
        assert isinstance(storage, _CachedStorage)
        trials, values = models.TrialModel, models.TrialValueModel
        noted = models.TrialUserAttributeModel
        running = {"state": TrialState.RUNNING, "_datetime_complete_utc": None}
        with storage._backend.engine.begin() as connection:
            connection.execute(sa.update(trials).where(trials.trial_id == key).values(running))
            connection.execute(sa.delete(values).where(values.trial_id == key))
            of_end = (noted.trial_id == key) & noted.key.in_(_OF_AN_END)
            connection.execute(sa.delete(noted).where(of_end))
        mine = self._study._study_id
        with storage._lock:
            if (known := storage._studies.get(mine)) is not None:
                storage._add_trials_to_cache(mine, [storage._backend.get_trial(key)])
                known.unfinished_trial_ids.add(key)

    def _key(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
