"""This project's own sampler and scheduler: the very `Strategy` that the driver runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.method import Job, Method, Point, Problem
from search.config.config import StudyConfig
from search.config.dimension import Suggester
from search.config.feasible import Realised
from search.drive.strategy import Strategy
from search.propose.evidence import Tuning
from search.propose.fidelity_sampler import UNTRAINABLE
from search.prune.settle import settle

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Ours:
    """Drives a strategy on a study in memory."""

    def __init__(
        self,
        problem: Problem,
        workers: int,
        seed: int,
        tuning: Tuning | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        config = StudyConfig.model_validate(
            {
                "seed": seed,
                "max_epochs": problem.max_epochs,
                # Of no use here: the table is the space.
                "space": {"filters": {"choice": [1]}, "learning_rate": 0.1},
                "baselines": [],
                "budget": {"epochs": round(problem.budget * problem.max_epochs)},
                **sections,
            }
        )
        self._study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), direction="maximize"
        )
        self._names = [f"x{i}" for i in range(problem.num_dimensions)]
        self._max_epochs = problem.max_epochs
        self._strategy = Strategy(
            self._study,
            settle(config, slots=workers),
            draw=self._draw,
            realise=lambda values: Realised(
                configuration=dict(values), key=repr(sorted(values.items())), refusal=""
            ),
            tuning=tuning,
        )

    def ask(self) -> Job:
        """Return a promotion if there is one, else a new trial."""
        if decision := self._strategy.next_promotion():
            self._strategy.promote(decision.trial)
            return Job(trial=decision.trial, point=None)
        proposal = self._strategy.propose()
        assert proposal.configuration is not None
        point = np.array([proposal.configuration[name] for name in self._names])
        return Job(trial=proposal.number, point=point)

    def started(self, trial: int, point: Point) -> None:
        """Put the matched row's values in the place of the proposed ones."""
        storage = self._study._storage
        key = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, trial)
        distributions = self._study.get_trials(deepcopy=False)[trial].distributions
        for name, place in zip(self._names, point, strict=True):
            storage.set_trial_param(key, name, float(place), distributions[name])

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        """Judge an epoch as the driver does."""
        if value is None:
            self._strategy.end(trial, TrialState.FAIL, None, {UNTRAINABLE: True})
            return False
        decision = self._strategy.judge(trial, epoch, value)
        if epoch == self._max_epochs:
            self._strategy.end(trial, TrialState.COMPLETE, value, {})
            return False
        action = decision.action if decision is not None else "continue"
        if action == "stop":
            self._strategy.end(trial, TrialState.PRUNED, None, {})
        return action in ("continue", "audit")

    def _draw(self, suggester: Suggester) -> dict[str, Any]:
        return {name: suggester.suggest_float(name, 0.0, 1.0) for name in self._names}


def ours(problem: Problem, workers: int, seed: int) -> Method:
    """Return the defaults of a study, without the audit: it buys knowledge, not results."""
    return Ours(problem, workers, seed, asha={"audit_share": 0.0})


def ours_audited(problem: Problem, workers: int, seed: int) -> Method:
    """Return the defaults of a long study, the audit too."""
    return Ours(problem, workers, seed)


def ours_stopping(problem: Problem, workers: int, seed: int) -> Method:
    """Return the stopping form, which never waits."""
    return Ours(problem, workers, seed, asha={"audit_share": 0.0, "form": "stopping"})


def ours_random(problem: Problem, workers: int, seed: int) -> Method:
    """Return our ASHA without our sampler."""
    return Ours(problem, workers, seed, asha={"audit_share": 0.0}, sampler={"kind": "random"})


def ours_tpe(problem: Problem, workers: int, seed: int) -> Method:
    """Return our ASHA with Optuna's TPE, told the values as they are."""
    return Ours(problem, workers, seed, asha={"audit_share": 0.0}, sampler={"kind": "tpe"})
