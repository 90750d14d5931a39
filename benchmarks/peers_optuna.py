"""Optuna 5.0 alone: its default TPE sampler with its own pruners, through ask and tell."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from benchmarks.method import Job, Point, Problem


class OptunaTpe:
    """The loop of Optuna's documentation: ask, report, should_prune, tell.

    A pruned trial is told as PRUNED, a diverged one as FAIL, as Optuna does with a NaN.
    """

    def __init__(self, problem: Problem, seed: int, pruner: BasePruner) -> None:
        """Make a study in memory with the sampler's defaults."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._max_epochs = problem.max_epochs
        self._space: dict[str, BaseDistribution] = {
            f"x{i}": FloatDistribution(0.0, 1.0) for i in range(problem.num_dimensions)
        }
        self._study = optuna.create_study(
            # Hyperband assigns brackets by the study's name, which is drawn at random otherwise.
            study_name=f"seed {seed}",
            direction="maximize",
            sampler=TPESampler(seed=seed),
            pruner=pruner,
        )
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self) -> Job:
        """Return the study's suggestion."""
        trial = self._study.ask(fixed_distributions=self._space)
        self._trials[trial.number] = trial
        point = np.array([trial.params[name] for name in self._space], dtype=np.float64)
        return Job(trial=trial.number, point=point)

    def started(self, trial: int, point: Point) -> None:
        """Put the point that is run in the place of the one that was suggested."""
        key, storage = self._trials[trial]._trial_id, self._study._storage
        for (name, distribution), value in zip(self._space.items(), point, strict=True):
            storage.set_trial_param(key, name, float(value), distribution)

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Report, and tell the study if that ends the trial."""
        of_study = self._trials[trial]
        if value is None:
            self._study.tell(of_study, state=TrialState.FAIL)
            return False
        of_study.report(value, epoch)
        if epoch == self._max_epochs:
            self._study.tell(of_study, value)
            return False
        if of_study.should_prune():
            self._study.tell(of_study, state=TrialState.PRUNED)
            return False
        return True


def tpe_successive_halving(problem: Problem, workers: int, seed: int) -> OptunaTpe:
    """Return TPE with the asynchronous successive halving pruner from the first epoch on."""
    # With the default "auto" nothing is pruned until a first trial is complete.
    return OptunaTpe(problem, seed, SuccessiveHalvingPruner(min_resource=1))


def tpe_hyperband(problem: Problem, workers: int, seed: int) -> OptunaTpe:
    """Return TPE with the Hyperband pruner, which Optuna's documentation recommends with it."""
    pruner = HyperbandPruner(min_resource=1, max_resource=problem.max_epochs)
    return OptunaTpe(problem, seed, pruner)
