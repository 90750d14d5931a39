"""Proposals: what an Optuna sampler suggests next, and what the study is told. No Ray here."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.config import SamplerSection
from search.config.cube import Draw
from search.config.feasible import Given, Realise, Realised
from search.propose.evidence import Tuning
from search.propose.fidelity_sampler import BASIS, FidelitySampler
from search.propose.inherited import Inherited, as_trials
from search.propose.ledger import Ledger
from search.seeds import derive_seed

_MOST_DRAWS = 100
ASK_SECONDS = "ask_seconds"
"""Trial attribute: how long the proposal took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One configuration to try; it is in the study already."""

    number: int
    configuration: dict[str, Any] | None
    refusal: str
    """Why it cannot be tried, or empty."""
    template: FrozenTrial
    """The trial as it was made."""


class Proposer:
    """Asks one Optuna study's sampler and makes its trials.

    The sampler is seeded anew for every trial from the study's seed and the trial's number, so a
    proposal depends only on those and on what the study holds by then: a study that was killed and
    resumed proposes what it would have proposed.
    """

    def __init__(
        self,
        study: optuna.Study,
        section: SamplerSection,
        *,
        draw: Draw,
        realise: Realise,
        levels: Sequence[int],
        seed: int,
        given: Sequence[Given] = (),
        tuning: Tuning | None = None,
        inherited: Sequence[Inherited] = (),
    ) -> None:
        """Propose points of the space that `draw` asks for, the trials of `given` first.

        Trials that the study holds already count as earlier ones; those that are `inherited` are
        evidence, and no trials of it.
        """
        self.study, self._section = study, section
        self._ledger = Ledger(study)
        self._draw, self._realise = draw, realise
        first = len(study.get_trials(deepcopy=False))
        if inherited:  # else a child of its parent's seed would draw what that has drawn
            seed = derive_seed(seed, "child", len(inherited))
        self._given, self._seed = dict(enumerate(given, start=first)), seed
        self._inherited = as_trials(inherited, draw, max_epochs=max(levels, default=1))
        self._sampler = self._make(seed, levels, tuning)
        self._keys: dict[str, int] = {}
        """Configuration -> the first trial that has it."""
        self._num_keyed = 0

    def ask(self) -> Proposal:
        """Make the next trial: a given one while there are any, then the sampler's."""
        started = time.perf_counter()
        trials = self.study.get_trials(deepcopy=False)
        number = len(trials)
        self._note_keys(trials)
        given = self._given.get(number, Given(origin="sampler"))
        values: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        realised, notes = given.realised, {"origin": given.origin}
        if realised is None:
            values, distributions, realised, notes = self._propose(number, given)
        attrs = {**notes, **realised.facts, ASK_SECONDS: round(time.perf_counter() - started, 6)}
        if realised.refusal:
            attrs["refusal"] = realised.refusal
        if realised.configuration is not None:
            attrs |= {"configuration": realised.configuration, "key": realised.key}
        template = create_trial(
            state=TrialState.RUNNING, params=values, distributions=distributions, user_attrs=attrs
        )
        template.number = number
        self._ledger.add(template)
        return Proposal(
            number=number,
            configuration=realised.configuration,
            refusal=realised.refusal,
            template=template,
        )

    def _propose(
        self, number: int, given: Given
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution], Realised, dict[str, Any]]:
        notes: dict[str, Any] = {"origin": given.origin}
        sampler = self._sampler
        if not isinstance(sampler, FidelitySampler):
            sampler = self._make(derive_seed(self._seed, "sampler", number), (), None)
        twin: int | None = None
        # The fidelity sampler asks `refuse` itself: one draw of it is all it has to say.
        insists = 1 if isinstance(sampler, FidelitySampler) else _MOST_DRAWS // 2
        for count in range(_MOST_DRAWS):
            if count == insists:
                # The model insists on what cannot be, or on what was tried. That is told.
                sampler = RandomSampler(seed=derive_seed(self._seed, "random", number))
                if given.origin == "sampler":
                    notes["origin"] = "sampler, at random"
            # The fidelity sampler has been given what is inherited.
            inherited = () if isinstance(sampler, FidelitySampler) else self._inherited
            draft = _Draft(self.study, sampler, number, given.values, inherited)
            values = dict(self._draw(draft))
            realised = self._realise(values)
            twin = self._keys.get(realised.key)
            if not realised.refusal and (twin is None or given.values):
                break
        if not realised.refusal and twin is not None and given.origin == "sampler":
            # Hardly anything new is left: the same configuration again, with a seed of its own.
            notes["origin"] = f"replicate of trial {twin}"
        if given.origin != "sampler":
            notes[BASIS] = {"by": "point"}
        elif isinstance(sampler, FidelitySampler):
            notes[BASIS] = sampler.basis
        else:
            notes[BASIS] = {"by": "random" if notes["origin"] != "sampler" else self._section.kind}
        used = {name: draft.distributions[name] for name in values}
        return values, used, realised, notes

    def _refuse(self, values: Mapping[str, Any]) -> str:
        realised = self._realise(values)
        if realised.refusal:
            return realised.refusal
        twin = self._keys.get(realised.key)
        return "" if twin is None else f"trial {twin} has the same configuration"

    def _note_keys(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials[self._num_keyed :]:
            if key := trial.user_attrs.get("key"):
                self._keys.setdefault(key, trial.number)
        self._num_keyed = len(trials)

    def _make(self, seed: int, levels: Sequence[int], tuning: Tuning | None) -> BaseSampler:
        section = self._section
        startup = section.startup_trials if section.startup_trials != "auto" else 10
        if section.kind == "random":
            return RandomSampler(seed=seed)
        if section.kind == "fidelity":
            return FidelitySampler(
                self._draw,
                levels=levels,
                startup_trials=startup,
                seed=seed,
                refuse=self._refuse,
                tuning=tuning,
                inherited=self._inherited,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # group: parameters of deeper networks get a joint model of their own.
            return TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=startup,
            )


class _Draft:
    """A trial that is not in the study yet: its parameters are drawn without being recorded."""

    def __init__(
        self,
        study: optuna.Study,
        sampler: BaseSampler,
        number: int,
        fixed: Mapping[str, Any],
        inherited: Sequence[FrozenTrial] = (),
    ) -> None:
        self._sampler, self._fixed = sampler, fixed
        self.distributions: dict[str, BaseDistribution] = {}
        self._frozen = FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=-1,
        )
        self._study = copy.copy(study)
        self._study._storage = _Unwritten(study._storage, inherited)  # type: ignore[assignment]
        if inherited:  # what Optuna has cached for the study does not hold them
            self._study._thread_local = type(study._thread_local)()
        space = sampler.infer_relative_search_space(self._study, self._frozen)
        self._relative = sampler.sample_relative(self._study, self._frozen, space)

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
        self.distributions[name] = distribution
        for known in (self._fixed, self._relative):
            if name in known:
                return known[name]
        return self._sampler.sample_independent(self._study, self._frozen, name, distribution)


class _Unwritten:
    """A storage that drops what a sampler notes on a trial which is not in it yet.

    TPE notes the parameters of running trials for others to see; ours are written with the trial.
    Trials that are inherited stand before the study's own.
    """

    def __init__(self, storage: Any, inherited: Sequence[FrozenTrial] = ()) -> None:
        self._storage, self._inherited = storage, inherited

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return all trials, those of an earlier study first."""
        own: list[FrozenTrial] = self._storage.get_all_trials(study_id, deepcopy, states)
        return [t for t in self._inherited if states is None or t.state in states] + own

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write nothing."""
