"""Write trials to Optuna's own tables of a study, which open in optuna-dashboard.

The database is written, never read to decide: what is proposed comes from a study in memory that is
told the same, by this very class. Reading the database back would take longer with every trial that
waits for its promotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


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

    def _key(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
