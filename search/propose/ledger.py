"""Tell an Optuna study of trials: one on disk, which opens in optuna-dashboard, or one in memory.

The database is written, never read to decide: what is proposed comes from a study in memory that is
told the same, by this very class. Reading the database back would take longer with every trial that
waits for its promotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from search.propose.fidelity_sampler import UNTRAINABLE
from search.propose.optuna_tables import OptunaTables, Writing

_OF_AN_END = ("reason", "failure", "infeasible", UNTRAINABLE)
"""Facts that are noted with a trial's end."""


class Ledger:
    """Writes trials to one Optuna study."""

    def __init__(self, study: optuna.Study, writing: Writing | None = None) -> None:
        """Write to `study`; `writing` gives the connection where it is on disk.

        Without it, what one call writes is one transaction.
        """
        in_memory = isinstance(study._storage, InMemoryStorage)
        self._kept = _InMemory(study) if in_memory else OptunaTables(study, writing)

    def add(self, template: FrozenTrial) -> None:
        """Write a new trial whole; it must have the next number."""
        self._kept.add(template)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Write the value of one epoch; one that was written before is replaced."""
        self._kept.report(number, epoch, value)

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Write facts (JSON-plain) on a trial."""
        self._kept.note(number, facts)

    def end(
        self, number: int, state: TrialState, value: float | None, facts: Mapping[str, Any]
    ) -> None:
        """End a trial; its value counts only where it is complete. All in one transaction."""
        self._kept.end(number, state, value if state == TrialState.COMPLETE else None, facts)

    def reopen(self, number: int) -> None:
        """Let a trial that has ended run again, as if it had not; its epochs stay."""
        self._kept.reopen(number, _OF_AN_END)


class _InMemory:
    """A study that ends with this process. Of a trial that changes there is a new object."""

    def __init__(self, study: optuna.Study) -> None:
        assert isinstance(study._storage, InMemoryStorage)
        self._study, self._storage = study, study._storage

    def add(self, template: FrozenTrial) -> None:
        made = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        number = self._storage.get_trial_number_from_id(made)
        assert number == template.number, "another process writes to this study"

    def report(self, number: int, epoch: int, value: float) -> None:
        # Not `Trial.report`, which keeps the first value of an epoch that is trained again.
        self._storage.set_trial_intermediate_value(self._key(number), epoch, value)

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            self._storage.set_trial_user_attr(self._key(number), key, value)

    def end(
        self, number: int, state: TrialState, value: float | None, facts: Mapping[str, Any]
    ) -> None:
        self.note(number, facts)
        key = self._key(number)
        if state == TrialState.PRUNED:
            told = self._storage.get_trial(key).intermediate_values
            value = told[max(told)] if told else None
        # Not `Study.tell`, which copies the trial twice.
        self._study._thread_local.cached_all_trials = None
        self._storage.set_trial_state_values(key, state, None if value is None else [value])

    def reopen(self, number: int, facts: tuple[str, ...]) -> None:
        key, storage = self._key(number), self._storage
        trial = copy(storage.get_trial(key))  # whoever has read it keeps what it was
        trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
        kept = {name: fact for name, fact in trial.user_attrs.items() if name not in facts}
        trial.user_attrs = kept
        with storage._lock:
            storage._set_trial(key, trial)

    def _key(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
