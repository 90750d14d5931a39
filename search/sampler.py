"""Proposals: what Optuna's sampler suggests next, and what it is told. No Ray here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from model.config import Configuration
from search.assignment import derive_seed
from search.config import SamplerSection
from search.space import Space

_MOST_DRAWS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One configuration to try."""

    number: int
    """The trial's number in the study."""
    configuration: Configuration | None
    """None where the parameters make no network; `refusal` says why."""
    refusal: str
    """Why it cannot be tried, or empty."""


Refusal = Callable[[Configuration], str]
"""Returns why a configuration cannot be tried, or an empty string."""


class Proposer:
    """Asks and tells one Optuna study.

    The sampler is seeded anew for every trial from the study's seed and the trial's number, so a
    proposal depends only on those and on what had been told by then: a study that was killed and
    resumed proposes what it would have proposed.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        section: SamplerSection,
        *,
        seed: int,
        refuse: Refusal,
    ) -> None:
        """Propose for `study` what `refuse` does not refuse."""
        self._study = study
        self._refuse = refuse
        self._space = space
        self._section = section
        self._seed = seed

    def ask(self, again: int | None = None) -> Proposal:
        """Propose the next trial: enqueued ones first, then the sampler's.

        `again` is the number of a trial that was begun before. Where a killed driver left its
        proposal half made, the rest is drawn now: then it may not be what it would have been.
        """
        if again is not None:
            self._study.sampler = self._sampler(again)
            return self._propose(self._trial(again))
        # Counting in the storage: the number that `ask` is about to give.
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = waiting[0].number if waiting else len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number, "another process writes to this study"
        return self._propose(trial)

    def _propose(self, trial: optuna.Trial) -> Proposal:
        number = trial.number
        given = trial.user_attrs.get("configuration")
        if given is not None:  # a baseline, or a trial that was begun before
            configuration = Configuration.from_dict(given)
            refusal = self._refuse(configuration)
            return Proposal(number=number, configuration=configuration, refusal=refusal)
        values, drawn, refusal = self._draw(trial)
        trial = self._fix(trial, values)
        self._space.suggest(trial)
        if drawn is not None:
            trial.set_user_attr("configuration", drawn.to_dict())
        return Proposal(number=number, configuration=drawn, refusal=refusal)

    def _draw(self, trial: optuna.Trial) -> tuple[dict[str, Any], Configuration | None, str]:
        # Draws that make no network, or one over the limits, are thrown away before they become
        # trials: the space's shape is no news to the record. The last draw is kept with its reason.
        for count in range(_MOST_DRAWS):
            if count == _MOST_DRAWS // 2:
                # The model insists on what cannot be. That is told with the trial.
                self._study.sampler = RandomSampler(seed=self._seed_for(trial.number))
                if "origin" not in trial.user_attrs:
                    trial.set_user_attr("origin", "sampler, at random")
            values = self._space.suggest(_Draft(self._study, trial))
            configuration = None
            try:
                configuration = self._space.configuration(values)
                refusal = self._refuse(configuration)
            except ValueError as error:
                refusal = str(error)
            if not refusal:
                break
        return values, configuration, refusal

    def _fix(self, trial: optuna.Trial, values: dict[str, Any]) -> optuna.Trial:
        # What Optuna itself writes for an enqueued trial: its suggestions then are these values.
        storage = self._study._storage
        storage.set_trial_system_attr(trial._trial_id, "fixed_params", values)
        return optuna.Trial(self._study, trial._trial_id)

    def report(self, number: int, *, epoch: int, value: float) -> None:
        """Tell the value of one epoch; an epoch that was told before is replaced."""
        # Not `Trial.report`, which keeps the first value of an epoch that is trained again.
        key = self._trial(number)._trial_id
        self._study._storage.set_trial_intermediate_value(key, epoch, value)

    def note(self, number: int, **facts: Any) -> None:
        """Write facts (JSON-plain) on a trial."""
        trial = self._trial(number)
        for key, value in facts.items():
            trial.set_user_attr(key, value)

    def tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        """End a trial. Facts are noted before this: the state changes last."""
        self._study.tell(number, value, state=state)

    def _trial(self, number: int) -> optuna.Trial:
        storage = self._study._storage
        key = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return optuna.Trial(self._study, key)

    def _seed_for(self, number: int) -> int:
        return derive_seed(self._seed, "sampler", number)

    def _sampler(self, number: int) -> BaseSampler:
        seed = self._seed_for(number)
        if self._section.kind == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # group: parameters of deeper networks get a joint model of their own.
            return TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=self._section.startup_trials,
            )


class _Draft:
    """Draws a trial's parameters from the study's sampler without recording them.

    What is fixed or recorded already (a user's point, a proposal left half made) stays as it is.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study = study
        self._frozen = study._storage.get_trial(trial._trial_id)
        fixed = self._frozen.system_attrs.get("fixed_params", {})
        self._given = fixed | self._frozen.params
        space = study.sampler.infer_relative_search_space(study, self._frozen)
        self._relative = study.sampler.sample_relative(study, self._frozen, space)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        for known in (self._given, self._relative):
            if name in known:
                return known[name]
        return self._study.sampler.sample_independent(self._study, self._frozen, name, distribution)
