"""How much validation accuracy a search may still gain: Optuna's regret bound. No Ray here.

Makarova et al., "Automatic Termination for Hyperparameter Optimization", AutoML 2022, as
`optuna.terminator.RegretBoundEvaluator` has it: a Gaussian process over the better half of the
trials, the highest upper confidence bound in the space less the highest lower one among them.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial, TrialState

from search.seeds import derive_seed

MIN_TRIALS = 20
"""Fewer trials that were trained to their end give no bound; Optuna's own choice."""
_EVERY = 5
_NOTED = "regret_bounds"


class RegretBound:
    """The regret bounds of one study, each kept in the study when it is computed.

    Kept, because a bound that ended the search may not come out again of the trials that were in
    flight then and ended later.
    """

    def __init__(self, study: optuna.Study, *, seed: int) -> None:
        """Bound the regret of `study`, which maximises one value."""
        self._study, self._seed = study, seed

    @property
    def bounds(self) -> dict[int, float]:
        """Return every bound so far by the number of trials it rests on, in order."""
        noted: dict[str, float] = self._study.user_attrs.get(_NOTED, {})
        return {int(count): bound for count, bound in noted.items()}

    def update(self) -> float | None:
        """Return a new bound where one is due, else None.

        It is due when there are 20 trials that were trained to their end, and at every fifth after
        that. Trials without parameters (baselines: they lie outside the space) are left out. A call
        takes 0.02 to 0.4 s of an idle core for 20 to 500 trials, some times that beside busy
        workers; the first of a process also imports scipy.
        """
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [trial for trial in trials if trial.params]
        bounds = self.bounds
        due = max(bounds) + _EVERY if bounds else MIN_TRIALS
        if len(trials) < due or not intersection_search_space(trials):
            return None
        bound = regret_bound(trials, seed=derive_seed(self._seed, "regret bound", len(trials)))
        noted = {str(count): earlier for count, earlier in bounds.items()}
        self._study.set_user_attr(_NOTED, noted | {str(len(trials)): bound})
        return bound


def regret_bound(trials: list[FrozenTrial], *, seed: int) -> float:
    """Return how far the best of completed trials is likely to be, at most, from the best there is.

    It is in the unit of the trials' values, which are maximised, and rests on the parameters that
    all the trials have. Equal trials and an equal seed give equal bounds.

    Raises:
        ValueError: There are no trials, or none of their parameters is in all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = RegretBoundEvaluator(min_n_trials=MIN_TRIALS, seed=seed)
    return float(evaluator.evaluate(trials, StudyDirection.MAXIMIZE))
