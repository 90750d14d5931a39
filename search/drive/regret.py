"""Keep the budget told of the regret bound, once trials that it rests on are in the record."""

from __future__ import annotations

from search.prune.budget import Budget
from search.prune.terminator import RegretBound
from search.record.study import Study


class Regret:
    """The regret bound of one search; nothing where the budget has no limit of it."""

    def __init__(self, study: Study, budget: Budget) -> None:
        """Tell `budget` of the bounds of `study`, those so far first."""
        self._budget = budget
        asked = study.config.budget.regret_bound is not None
        self._bound = RegretBound(study.optuna, seed=study.config.seed) if asked else None
        self._is_due = True  # where a driver died before it was noted

    def recall(self) -> None:
        """Tell the budget of the bounds that are recorded."""
        for bound in self._bound.bounds.values() if self._bound else ():
            self._budget.regret(bound)

    def trial_completed(self) -> None:
        """Let the bound be looked at again, at the next update."""
        self._is_due = True

    def update(self) -> None:
        """Tell the budget of a new bound where there is one. Writes to the record by itself."""
        due, self._is_due = self._is_due, False
        if due and self._bound and (bound := self._bound.update()) is not None:
            self._budget.regret(bound)
