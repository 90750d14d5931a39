"""An Optuna sampler that learns from every rung: values of stopped trials guide, until better come.

Each proposal conditions a Gaussian process (`search.propose.surrogate`) on all trials, their values
brought to the scale of the highest rung reached (`search.propose.fidelity`), and maximises expected
improvement over points drawn from the space, half of them anywhere, half near the best. It depends
only on the study's seed, the trial's number and what the study holds by then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc
from threadpoolctl import ThreadpoolController

from search.config.cube import Cube, Draw
from search.propose.evidence import Evidence, Tuning, curve_of, gather, trials_since_best
from search.propose.inherited import UNTRAINABLE as UNTRAINABLE
from search.propose.inherited import distribution
from search.propose.surrogate import Hyperparameters, Surrogate, expected_improvement, fit, short
from search.seeds import derive_seed

Vector = NDArray[np.float64]

BASIS = "proposal"
"""Trial attribute: what a proposal was based on. The next one starts from its length scales."""
_FIRST_CLIMB = 10
"""Times as many steps for the first model on evidence of an earlier study: no proposal before it
has climbed any."""

Refuse = Callable[[Mapping[str, Any]], str]
"""Returns why a point cannot be proposed, or an empty string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A trial as the model takes it."""

    trial: FrozenTrial
    number: int
    point: Vector
    curve: dict[int, float]
    best: float
    """Over the levels, higher is better; -inf where there are none."""
    untrainable: bool


class FidelitySampler(BaseSampler):
    """Propose by expected improvement over values of all rungs."""

    def __init__(
        self,
        draw: Draw,
        *,
        levels: Sequence[int],
        startup_trials: int,
        seed: int,
        refuse: Refuse = lambda values: "",
        tuning: Tuning | None = None,
        inherited: Sequence[FrozenTrial] = (),
    ) -> None:
        """Propose points of a define-by-run space.

        Args:
            draw: Asks a trial for every parameter that exists.
            levels: Steps of the intermediate values that compare trials: the rungs, then the last.
            startup_trials: Trials placed by a Sobol sequence before the model is used.
            seed: The study's seed.
            refuse: Says why a point is not to be proposed, such as a network over the limits.
            tuning: How it works; the default is for real studies.
            inherited: Trials of an earlier study, see `search.propose.inherited`: evidence from
                the first proposal on, and as many trials fewer to start with.
        """
        self.cube = Cube(draw)
        self.basis: dict[str, Any] = {}
        """What the last proposal was based on, JSON-plain."""
        self._levels = list(levels)
        self._startup = startup_trials
        self._seed = seed
        self._refuse = refuse
        self._tuning = tuning or Tuning()
        self._inherited = list(inherited)
        self._known: dict[int, _Seen] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return every parameter of the space: all are proposed together."""
        return {name: distribution(axis) for name, axis in self.cube.axes.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a point: values by parameter, of those that exist in it."""
        number = trial.number
        rng = random.Random(derive_seed(self._seed, "sampler", number))
        others = study.get_trials(deepcopy=False)[:number]
        modelled = [t for t in others if t.params]
        if len(self._inherited) + len(modelled) < max(1, self._startup):
            return self._start(len(modelled), rng)
        sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
        # Of this study's own trials: how long an earlier one went on without a better is not ours.
        bests = [self._seen(trial, sign).best for trial in modelled]
        stale = trials_since_best(bests) if bests else 0
        doubt = stale / (stale + self._tuning.patience)
        if rng.random() < self._tuning.random_share + self._tuning.stale_share * doubt:
            return self._anywhere("exploration", rng)
        evidence = self._evidence([*self._inherited, *modelled], sign, rng)
        if evidence is None or len(evidence.values) < 3:
            return self._anywhere("nothing observed yet", rng)
        # One thread: the matrices are small, the cores belong to the trials, and how the work is
        # divided among threads must not show in a proposal.
        with _blas().limit(limits=1):
            return self._model(evidence, others, sign, rng)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that the proposal does not hold, at random."""
        seeded = RandomSampler(seed=derive_seed(self._seed, "alone", trial.number, param_name))
        return seeded.sample_independent(study, trial, param_name, param_distribution)

    def _start(self, index: int, rng: random.Random) -> dict[str, Any]:
        # Sobol points cover the space evenly; scrambled by the study's seed, skipped to the index.
        sequence = qmc.Sobol(
            len(self.cube.axes), rng=np.random.default_rng(derive_seed(self._seed, "sobol"))
        )
        if index:
            sequence.fast_forward(index)
        values = self.cube.at(list(sequence.random(1)[0]))
        if self._refuse(values):
            return self._anywhere("start", rng)
        self.basis = {"by": "start", "index": index}
        return values

    def _anywhere(self, why: str, rng: random.Random) -> dict[str, Any]:
        self.basis = {"by": why}
        values: dict[str, Any] = {}
        for _ in range(100):
            values = self.cube.anywhere(rng)
            if not self._refuse(values):
                break
        return values

    def _evidence(
        self, trials: Sequence[FrozenTrial], sign: float, rng: random.Random
    ) -> Evidence | None:
        untrainable: list[int] = []
        curves: dict[int, dict[int, float]] = {}
        for trial in trials:
            seen = self._seen(trial, sign)
            if seen.untrainable:
                untrainable.append(seen.number)
            elif seen.curve:
                curves[seen.number] = seen.curve
        if not curves:
            return None
        most, most_untrainable = self._tuning.most_observations, self._tuning.most_untrainable
        return gather(curves, untrainable, most=most, most_untrainable=most_untrainable, rng=rng)

    def _model(
        self,
        evidence: Evidence,
        others: Sequence[FrozenTrial],
        sign: float,
        rng: random.Random,
    ) -> dict[str, Any]:
        tuning = self._tuning
        middle, spread = float(evidence.values.mean()), float(evidence.values.std()) + 1e-12
        values, noise = (evidence.values - middle) / spread, evidence.variances / spread**2
        known = {trial.number: trial for trial in (*self._inherited, *others)}
        last = _last_hyperparameters(others, self.cube.width)
        start = last or Hyperparameters.start(self.cube.width)
        first = bool(self._inherited) and last is None
        steps = tuning.climb * (_FIRST_CLIMB if first else 1)
        points = np.array([self._seen(known[number], sign).point for number in evidence.numbers])
        surrogate = fit(points, values, noise, start, steps=steps, rng=rng)
        pending = [
            trial
            for trial in others
            if trial.state == TrialState.RUNNING
            and trial.params
            and not self._seen(trial, sign).curve
        ]
        if pending:  # fantasies: what the model expects of trials that have not spoken yet
            fantasies = np.array([self._seen(trial, sign).point for trial in pending])
            points = np.vstack([points, fantasies])
            values = np.append(values, surrogate.mean(fantasies))
            noise = np.append(noise, np.zeros(len(pending)))
            surrogate = Surrogate(points, values, noise, surrogate.hyper)
        expected = surrogate.mean(points)
        best = float(expected.max())
        numbers = [*evidence.numbers, *(trial.number for trial in pending)]
        ranked = [known[numbers[row]] for row in np.argsort(-expected, kind="stable")]
        drawn, parents = self._candidates(ranked[: tuning.parents], surrogate, rng)
        vectors = np.array([self.cube.encode(point) for point in drawn])
        mean, deviation = surrogate.mean_and_deviation(vectors)
        improvement = expected_improvement(mean, deviation, best)
        order = [int(row) for row in np.argsort(-improvement, kind="stable")]
        # Again only where nothing else is left; what an earlier study tried is not ours yet.
        tried = {p.tobytes() for p, number in zip(points, numbers, strict=True) if number >= 0}
        order.sort(key=lambda row: vectors[row].tobytes() in tried)
        row = next((row for row in order if not self._refuse(drawn[row])), None)
        if row is None:
            return self._anywhere("no candidate can be", rng)
        hyper = surrogate.hyper
        self.basis = {
            "by": "model",
            "observations": len(evidence.numbers) - evidence.untrainable,
            "untrainable": evidence.untrainable,
            "pending": len(pending),
            "level": self._levels[evidence.level],
            "near": parents[row],
            "expected": short(sign * (middle + spread * mean[row])),
            "deviation": short(spread * deviation[row]),
            "best": short(sign * (middle + spread * best)),
            "improvement": short(spread * improvement[row]),
            "lengthscales": list(hyper.lengthscales),
            "noise": hyper.noise,
        }
        if self._inherited:
            self.basis["inherited"] = sum(number < 0 for number in evidence.numbers)
        return drawn[row]

    def _candidates(
        self, best: Sequence[FrozenTrial], surrogate: Surrogate, rng: random.Random
    ) -> tuple[list[dict[str, Any]], list[int | None]]:
        # Drawing is what takes time, and it takes longer in a space of many parameters.
        half = min(self._tuning.candidates, max(250, 5000 // len(self.cube.axes))) // 2
        points = [self.cube.anywhere(rng) for _ in range(half)]
        parents: list[int | None] = [None] * half
        spread = self.cube.spread(np.array(surrogate.hyper.lengthscales), self._tuning.step)
        for _ in range(half):
            parent = rng.choice(best)
            points.append(self.cube.near(parent.params, spread, rng))
            parents.append(parent.number)
        return points, parents

    def _curve(self, trial: FrozenTrial, sign: float) -> dict[int, float]:
        curve = curve_of(trial.intermediate_values, self._levels, sign)
        if not curve and trial.state == TrialState.COMPLETE and trial.value is not None:
            return {len(self._levels) - 1: sign * trial.value}  # it reported nothing on the way
        return curve

    def _seen(self, trial: FrozenTrial, sign: float) -> _Seen:
        # Optuna makes a new object of a trial that changes: thousands of others need no reading.
        known = self._known.get(trial._trial_id)
        if known is None or known.trial is not trial:
            curve = self._curve(trial, sign)
            known = self._known[trial._trial_id] = _Seen(
                trial=trial,
                number=trial.number,
                point=self.cube.encode(trial.params),
                curve=curve,
                best=max(curve.values(), default=-math.inf),
                untrainable=bool(trial.user_attrs.get(UNTRAINABLE)),
            )
        return known


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the libraries takes longer than a proposal


def _last_hyperparameters(trials: Sequence[FrozenTrial], width: int) -> Hyperparameters | None:
    for trial in reversed(trials):
        basis = trial.user_attrs.get(BASIS, {})
        if len(basis.get("lengthscales", ())) == width:
            return Hyperparameters(
                lengthscales=tuple(basis["lengthscales"]), noise=float(basis["noise"])
            )
    return None
