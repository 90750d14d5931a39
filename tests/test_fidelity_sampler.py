"""The sampler as a plug-in of Optuna: any define-by-run objective that reports its values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from scipy.stats import qmc

from search.config.dimension import Suggester
from search.propose.evidence import Tuning
from search.propose.fidelity_sampler import BASIS, UNTRAINABLE, FidelitySampler
from search.seeds import derive_seed

LEVELS = (1, 3, 9)
Values = Mapping[str, Any]


def _tuning(**changes: Any) -> Tuning:
    """Return a quick tuning that draws nothing at random unless a test wants it."""
    shares = {f.name: 0.0 for f in fields(Tuning) if f.name.endswith("_share")}
    return Tuning(**(shares | {"candidates": 100} | changes))


def _draw(suggester: Suggester) -> dict[str, Any]:
    return {
        "x": suggester.suggest_float("x", -1.0, 1.0),
        "y": suggester.suggest_float("y", -1.0, 1.0),
        "rate": suggester.suggest_float("rate", 1e-4, 1.0, log=True),
    }


def _loss(values: Values) -> float:
    rate = math.log10(values["rate"]) + 2
    return float((values["x"] - 0.3) ** 2 + (values["y"] + 0.2) ** 2 + 0.3 * rate**2)


def _sampler(seed: int = 0, **changes: Any) -> FidelitySampler:
    arguments: dict[str, Any] = {"levels": LEVELS, "startup_trials": 6, "tuning": _tuning()}
    return FidelitySampler(changes.pop("draw", _draw), seed=seed, **(arguments | changes))


def _study(sampler: BaseSampler, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(direction=direction, sampler=sampler)


def _objective(sign: float, levels: Iterable[int] = LEVELS) -> Callable[[optuna.Trial], float]:
    """Return an objective that comes nearer to its value from level to level."""

    def objective(trial: optuna.Trial) -> float:
        loss = _loss(_draw(trial))
        for step in levels:
            trial.report(sign * (loss + 1 / step), step)
        return sign * loss

    return objective


def _ask(
    study: optuna.Study, draw: Callable[[Suggester], dict[str, Any]] = _draw
) -> dict[str, Any]:
    return draw(study.ask())


def _fill(study: optuna.Study, trials: int) -> None:
    study.optimize(_objective(-1.0), n_trials=trials)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_it_is_better_than_chance(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0

    def best(sampler: BaseSampler) -> float:
        study = _study(sampler, direction)
        study.optimize(_objective(sign), n_trials=22)
        return sign * study.best_value

    ours = [best(_sampler(seed)) for seed in range(3)]
    chance = [best(RandomSampler(seed=seed)) for seed in range(3)]
    assert max(ours) < 0.25 * float(np.median(chance))
    assert max(ours) < min(chance)


def test_maximising_is_minimising_with_the_sign_changed() -> None:
    found = []
    for direction, sign in (("maximize", -1.0), ("minimize", 1.0)):
        sampler = _sampler()
        study = _study(sampler, direction)
        study.optimize(_objective(sign), n_trials=12)
        found.append(([trial.params for trial in study.trials], sampler.basis))
    (high, above), (low, below) = found
    assert high == low
    for key in ("expected", "best"):
        assert above[key] == -below[key]
    assert above["improvement"] == below["improvement"] >= 0


def test_proposals_depend_on_the_seed() -> None:
    def proposals(seed: int) -> list[Values]:
        study = _study(_sampler(seed))
        _fill(study, 10)
        return [trial.params for trial in study.trials]

    assert proposals(1) == proposals(1)
    assert all(a != b for a, b in zip(proposals(1), proposals(2), strict=True))


def test_a_proposal_depends_on_the_record_only() -> None:
    lasting = _study(_sampler())
    _fill(lasting, 9)
    pending = lasting.ask()
    _draw(pending)
    expected = _ask(lasting)
    # Another process, which has proposed nothing yet, and numbers the trials as before.
    fresh = _study(_sampler())
    for trial in lasting.trials[:-2]:
        fresh.add_trial(trial)
    fresh.add_trial(
        optuna.trial.create_trial(
            state=TrialState.RUNNING, params=pending.params, distributions=pending.distributions
        )
    )
    assert _ask(fresh) == expected


def test_the_first_trials_are_a_sobol_sequence_of_the_seed() -> None:
    sampler = _sampler(5, startup_trials=8)
    study = _study(sampler)
    bases = []
    places = []
    for _ in range(8):
        vector = sampler.cube.encode(_ask(study))
        bases.append(sampler.basis)
        places.append(vector)
    assert bases == [{"by": "start", "index": index} for index in range(8)]
    expected = qmc.Sobol(3, rng=np.random.default_rng(derive_seed(5, "sobol"))).random(8)
    np.testing.assert_allclose(places, expected, atol=1e-6)
    # One in every eighth of every axis.
    for column in np.array(places).T:
        assert sorted((8 * column).astype(int)) == list(range(8))


def test_trials_without_parameters_are_no_start() -> None:
    # Baselines lie outside the space.
    sampler = _sampler()
    study = _study(sampler)
    for _ in range(10):
        study.add_trial(optuna.trial.create_trial(state=TrialState.COMPLETE, value=0.9))
    _ask(study)
    assert sampler.basis == {"by": "start", "index": 0}


def test_without_any_value_it_draws_anywhere() -> None:
    sampler = _sampler(startup_trials=0)
    study = _study(sampler)
    asked = [_ask(study) for _ in range(3)]
    assert sampler.basis == {"by": "nothing observed yet"}
    assert len({values["x"] for values in asked}) == 3


def test_a_share_of_the_proposals_is_drawn_anywhere() -> None:
    sampler = _sampler(tuning=_tuning(candidates=20, climb=1, random_share=0.5))
    study = _study(sampler)
    _fill(study, 6)
    by = []
    for _ in range(40):
        _fill(study, 1)
        by.append(sampler.basis["by"])
    assert set(by) == {"model", "exploration"}
    assert 10 <= by.count("exploration") <= 30


def test_more_is_drawn_anywhere_the_longer_no_better_trial_comes() -> None:
    def explored(rising: bool) -> int:
        sampler = _sampler(tuning=_tuning(candidates=20, climb=1, stale_share=1.0, patience=4))
        study = _study(sampler)
        by = []
        for number in range(30):
            trial = study.ask()
            _draw(trial)
            by.append(sampler.basis["by"])
            trial.report(0.01 * number if rising else -0.01 * number, 1)
            study.tell(trial, state=TrialState.PRUNED)
        return by.count("exploration")

    assert explored(rising=True) == 0
    assert 12 <= explored(rising=False) < 24  # of 24, at a share that goes from 6/10 to 29/33


def test_the_basis_of_a_proposal_says_what_it_rests_on() -> None:
    sampler = _sampler()
    study = _study(sampler)
    _fill(study, 8)
    failed = study.ask()
    _draw(failed)
    failed.set_user_attr(UNTRAINABLE, True)
    study.tell(failed, state=TrialState.FAIL)
    _ask(study)  # open
    _ask(study)
    basis = sampler.basis
    assert json.loads(json.dumps(basis)) == basis
    assert (basis["by"], basis["observations"], basis["untrainable"]) == ("model", 8, 1)
    assert (basis["pending"], basis["level"]) == (1, 9)
    assert basis["near"] is None or 0 <= basis["near"] < 10
    assert basis["improvement"] >= 0 and basis["deviation"] > 0
    assert len(basis["lengthscales"]) == sampler.cube.width == 3


def test_the_length_scales_go_on_from_the_last_proposal() -> None:
    sampler = _sampler(tuning=_tuning(candidates=20, climb=0))
    study = _study(sampler)
    _fill(study, 7)
    noted = {"lengthscales": [0.123, 0.456, 0.789], "noise": 0.0321}
    trial = study.ask()
    _draw(trial)
    trial.set_user_attr(BASIS, {"by": "model", **noted})
    _ask(study)
    assert {key: sampler.basis[key] for key in noted} == noted
    # Those of another space (a key was added) are of no use.
    trial = study.ask()
    trial.set_user_attr(BASIS, {"by": "model", "lengthscales": [0.3], "noise": 0.5})
    _ask(study)
    assert {key: sampler.basis[key] for key in noted} == noted


def test_what_counts_at_a_level_is_the_best_value_by_then() -> None:
    def proposal(reports: Callable[[float], dict[int, float]]) -> tuple[Values, int]:
        sampler = _sampler(levels=(1, 4))
        study = _study(sampler)
        for _ in range(8):
            trial = study.ask()
            for step, value in reports(_loss(_draw(trial))).items():
                trial.report(value, step)
            study.tell(trial, state=TrialState.PRUNED)
        return _ask(study), sampler.basis["level"]

    def early(loss: float) -> float:
        return -9.0 - math.sin(50 * loss)

    plain = proposal(lambda loss: {1: early(loss), 4: -loss})
    assert plain == proposal(lambda loss: {1: early(loss), 2: -loss, 3: -loss - 3, 4: -loss - 1})
    assert plain == proposal(lambda loss: {1: early(loss), 3: -loss, 4: -loss - 9, 5: 7.0})
    assert plain[1] == 4
    # Three epochs are not four.
    assert proposal(lambda loss: {1: -loss - 1, 3: -loss})[1] == 1


def test_trials_stopped_early_guide_it() -> None:
    # Nothing has got beyond the first level, and yet the ninth trial is near the optimum.
    study = _study(_sampler())
    study.optimize(_objective(-1.0, levels=[1, 2]), n_trials=24)
    late = [_loss(trial.params) for trial in study.trials[12:]]
    early = [_loss(trial.params) for trial in study.trials[:6]]
    assert np.median(late) < 0.2 * np.median(early)


def test_the_number_of_observations_is_bounded_and_the_best_are_among_them() -> None:
    bounded = _tuning(candidates=20, most_observations=4, most_untrainable=2)
    sampler = _sampler(tuning=bounded)
    study = _study(sampler)
    _fill(study, 25)
    for _ in range(4):
        trial = study.ask()
        _draw(trial)
        trial.set_user_attr(UNTRAINABLE, True)
        study.tell(trial, state=TrialState.FAIL)
    _ask(study)
    assert (sampler.basis["observations"], sampler.basis["untrainable"]) == (4, 2)
    third = sorted(_loss(trial.params) + 1 / 9 for trial in study.trials[:25])[2]
    assert sampler.basis["best"] > -third


def _edge(suggester: Suggester) -> dict[str, Any]:
    return {
        "x": suggester.suggest_float("x", 0.0, 1.0),
        "y": suggester.suggest_float("y", 0.0, 1.0),
    }


def test_diverged_trials_repel() -> None:
    # The larger x the better, until all fails beyond 0.6: as learning rates are.
    def beyond(seed: int, *, told: bool) -> int:
        study = _study(_sampler(seed, draw=_edge))
        count = 0
        for number in range(24):
            trial = study.ask()
            values = _edge(trial)
            if values["x"] <= 0.6:
                value = values["x"] - 0.2 * (values["y"] - 0.5) ** 2
                for step in LEVELS:
                    trial.report(value - 1 / step, step)
                study.tell(trial, value)
                continue
            if told:
                trial.set_user_attr(UNTRAINABLE, True)
            study.tell(trial, state=TrialState.FAIL)
            count += number >= 6
        return count

    for seed in range(2):
        # An error in the code says nothing about the point; a diverged training does.
        assert beyond(seed, told=True) <= 6
        assert beyond(seed, told=False) >= 12


def test_what_is_refused_is_not_proposed() -> None:
    def refuse(values: Values) -> str:
        return "too far right" if values["x"] > 0.0 else ""

    sampler = _sampler(refuse=refuse, tuning=_tuning(candidates=60, random_share=0.3))
    study = _study(sampler)
    by = set()
    for _ in range(20):
        _fill(study, 1)
        by.add(sampler.basis["by"])
    # The optimum is at x = 0.3: the model would go there.
    assert max(trial.params["x"] for trial in study.trials) <= 0.0
    assert by == {"start", "exploration", "model"}


def test_where_everything_is_refused_it_proposes_all_the_same() -> None:
    # The caller says why the point cannot be: a proposal is not an endless loop.
    sampler = _sampler(refuse=lambda values: "no", startup_trials=2)
    study = _study(sampler)
    _fill(study, 5)
    assert sampler.basis == {"by": "no candidate can be"}


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_several_asked_at_once_differ(seed: int) -> None:
    study = _study(_sampler(seed, draw=_edge, startup_trials=8))
    for _ in range(12):
        trial = study.ask()
        values = _edge(trial)
        value = -((values["x"] - 0.65) ** 2) - (values["y"] - 0.4) ** 2
        for step in LEVELS:
            trial.report(value - 1 / step, step)
        study.tell(trial, value)
    asked = [_ask(study, _edge) for _ in range(6)]
    places = [tuple(values.values()) for values in asked]
    assert min(math.dist(a, b) for a, b in combinations(places, 2)) > 1e-4


def test_an_open_trial_is_taken_at_the_model_s_word() -> None:
    # Of a few whole numbers, none is asked for twice while it is open.
    def draw(suggester: Suggester) -> dict[str, Any]:
        return {"n": suggester.suggest_int("n", 1, 12)}

    study = _study(_sampler(draw=draw, startup_trials=4))
    for _ in range(4):
        trial = study.ask()
        value = -((draw(trial)["n"] - 7) ** 2)
        for step in LEVELS:
            trial.report(value - 1 / step, step)
        study.tell(trial, value)
    asked = [_ask(study, draw)["n"] for _ in range(5)]
    assert len(set(asked)) == 5


def test_open_trials_are_kept_away_from() -> None:
    # Where little is known the next trial goes where an open one does not already look.
    def apart(seed: int) -> float:
        tuning = _tuning(candidates=400)
        sampler = _sampler(seed, draw=_edge, levels=(1,), startup_trials=4, tuning=tuning)
        study = _study(sampler)
        for _ in range(5):
            trial = study.ask()
            values = _edge(trial)
            trial.report(math.sin(3 * values["x"]) + math.cos(2 * values["y"]), 1)
            study.tell(trial, state=TrialState.PRUNED)
        places = [tuple(_ask(study, _edge).values()) for _ in range(5)]
        return float(np.mean([math.dist(a, b) for a, b in combinations(places, 2)]))

    # Without the open trials in the model it is 0.09, with them 0.17.
    assert np.mean([apart(seed) for seed in range(8)]) > 0.13


def test_a_conditional_space_is_searched() -> None:
    def draw(suggester: Suggester) -> dict[str, Any]:
        values: dict[str, Any] = {"kind": suggester.suggest_categorical("kind", ["a", "b", "c"])}
        if values["kind"] == "b":
            values["depth"] = suggester.suggest_int("depth", 1, 8)
        return values | {"rate": suggester.suggest_float("rate", 1e-3, 1.0, log=True)}

    def objective(trial: optuna.Trial) -> float:
        values = draw(trial)
        value = {"a": 0.5, "b": 0.1, "c": 0.2}[values["kind"]]
        value += 0.1 * values.get("depth", 0) - 0.1 * abs(math.log10(values["rate"]) + 2)
        for step in LEVELS:
            trial.report(value - 1 / step, step)
        return value

    study = _study(_sampler(draw=draw))
    study.optimize(objective, n_trials=24)
    best = study.best_params
    assert best["kind"] == "b" and best["depth"] >= 7  # 0.9 at best, 0.5 for "a"
    assert {"depth" in t.params for t in study.trials} == {True, False}


def test_a_parameter_it_has_not_learnt_of_is_drawn_seeded() -> None:
    def draw_more(suggester: Suggester) -> dict[str, Any]:
        return {**_draw(suggester), "late": suggester.suggest_float("late", 0.0, 1.0)}

    first, second = (_ask(_study(_sampler()), draw_more) for _ in range(2))
    assert first == second
    assert first["late"] != _ask(_study(_sampler(1)), draw_more)["late"]


def test_an_objective_that_reports_late_is_learnt_from() -> None:
    # The first value comes at the last level: lower ones hold nothing, not minus infinity.
    study = _study(_sampler())
    study.optimize(_objective(-1.0, levels=[9]), n_trials=22)
    assert -study.best_value < 0.02


def test_an_objective_that_reports_nothing_is_learnt_from_by_what_it_returns() -> None:
    sampler = _sampler()
    study = _study(sampler)
    study.optimize(_objective(-1.0, levels=[]), n_trials=22)
    assert sampler.basis["by"] == "model", "not silently at random"
    assert -study.best_value < 0.02


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reported_value_that_is_not_finite_does_not_spoil_the_others(value: float) -> None:
    study = _study(_sampler())
    _fill(study, 7)
    for steps in ([1], [1, 3]):
        trial = study.ask()
        _draw(trial)
        for step in steps:
            trial.report(value if step == steps[-1] else -2.0, step)
        study.tell(trial, state=TrialState.PRUNED)
    study.optimize(_objective(-1.0), n_trials=13)
    assert -study.best_value < 0.05


def test_two_samplers_may_share_a_study_in_turns() -> None:
    # Nothing is kept that the study does not hold.
    alone, shared = _study(_sampler()), _study(_sampler())
    _fill(alone, 12)
    for one, other in pairwise([_sampler() for _ in range(13)]):
        shared.sampler = one
        _fill(shared, 1)
        assert one is not other
    assert [t.params for t in shared.trials] == [t.params for t in alone.trials]
