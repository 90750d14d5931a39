"""Proposals: given trials first, nothing twice, each with what it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from search.config.config import SamplerSection
from search.config.dimension import Suggester
from search.config.feasible import Given, Realise, Realised
from search.propose.ledger import Ledger
from search.propose.sampler import Proposal, Proposer

KINDS = ["fidelity", "tpe", "random"]
MakeProposer = Callable[..., Proposer]


def _wide(suggester: Suggester) -> dict[str, Any]:
    values: dict[str, Any] = {"depth": suggester.suggest_int("depth", 1, 3)}
    for block in range(1, values["depth"] + 1):
        name = f"width_{block}"
        values[name] = suggester.suggest_int(name, 8, 64, step=8)
    return values | {"rate": suggester.suggest_float("rate", 1e-3, 1.0, log=True)}


def _few(suggester: Suggester) -> dict[str, Any]:
    """Ask for one of six points."""
    return {
        "filters": suggester.suggest_categorical("filters", [4, 8, 16]),
        "pooling": suggester.suggest_categorical("pooling", ["max", "avg"]),
    }


def _realise(values: Mapping[str, Any]) -> Realised:
    return Realised(configuration=dict(values), key=repr(sorted(values.items())), refusal="")


def _refusing(refuse: Callable[[Mapping[str, Any]], bool]) -> Realise:
    def realise(values: Mapping[str, Any]) -> Realised:
        realised = _realise(values)
        refusal = "too large" if refuse(values) else ""
        return Realised(configuration=dict(values), key=realised.key, refusal=refusal)

    return realise


def _study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def _make(
    study: optuna.Study,
    kind: str = "fidelity",
    draw: Callable[[Suggester], dict[str, Any]] = _wide,
    **changes: Any,
) -> Proposer:
    arguments: dict[str, Any] = {"realise": _realise, "levels": (1, 3), "seed": 0}
    section = SamplerSection(kind=kind, startup_trials=4)  # type: ignore[arg-type]
    return Proposer(study, section, draw=draw, **(arguments | changes))


def _train(proposer: Proposer, proposal: Proposal, value: float = 0.5) -> None:
    ledger = Ledger(proposer.study)
    for epoch in (1, 3):
        ledger.report(proposal.number, epoch, value - 0.1 / epoch)
    ledger.end(proposal.number, TrialState.COMPLETE, value, {})


def _search(proposer: Proposer, trials: int) -> list[Proposal]:
    found = []
    for _ in range(trials):
        proposal = proposer.ask()
        configuration = proposal.configuration or {}
        _train(proposer, proposal, 0.9 - abs(float(configuration.get("rate", 0.1)) - 0.1))
        found.append(proposal)
    return found


def _brief(proposal: Proposal) -> tuple[Any, ...]:
    """Return what does not depend on the time of day."""
    return (proposal.number, proposal.configuration, proposal.refusal)


def _attr(study: optuna.Study, name: str) -> list[Any]:
    return [trial.user_attrs.get(name) for trial in study.trials]


def test_a_proposal_is_in_the_study_with_all_that_is_known_of_it() -> None:
    study = _study()
    realise = _refusing(lambda values: False)
    proposer = _make(
        study,
        realise=lambda values: Realised(
            configuration={"network": dict(values)},
            key=realise(values).key,
            refusal="",
            facts={"parameters": 17},
        ),
    )
    proposal = proposer.ask()
    (trial,) = study.trials
    assert (trial.number, trial.state) == (proposal.number, TrialState.RUNNING)
    assert proposal.configuration == {"network": trial.params}
    assert (proposal.refusal, trial.user_attrs.get("refusal")) == ("", None)
    assert trial.user_attrs["configuration"] == proposal.configuration
    assert trial.user_attrs["origin"] == "sampler"
    assert trial.user_attrs["parameters"] == 17
    assert trial.user_attrs["key"] == repr(sorted(trial.params.items()))
    assert trial.user_attrs["proposal"] == {"by": "start", "index": 0}
    assert 0 < trial.user_attrs["ask_seconds"] < 60
    assert set(trial.distributions) == set(trial.params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_noted_are_those_that_exist(kind: str) -> None:
    study = _study()
    _search(_make(study, kind), 12)
    depths = {trial.params["depth"] for trial in study.trials}
    assert len(depths) > 1
    for trial in study.trials:
        assert len(trial.params) == 2 + trial.params["depth"]
        assert trial.user_attrs["configuration"] == trial.params
        assert json.loads(json.dumps(trial.user_attrs)) == trial.user_attrs


@pytest.mark.parametrize("kind", KINDS)
def test_given_trials_come_first_in_their_order(kind: str) -> None:
    study = _study()
    outside = Realised(
        configuration={"seed": 32}, key="seed-32", refusal="", facts={"parameters": 421_642}
    )
    given = [
        Given(origin="baseline seed-32", realised=outside),
        Given(origin="point 1", values={"depth": 2, "rate": 0.25}),
        Given(origin="point 2"),
    ]
    found = _search(_make(study, kind, given=given), 5)
    baseline, point, free, *others = study.trials
    assert _attr(study, "origin")[:4] == ["baseline seed-32", "point 1", "point 2", "sampler"]
    # A baseline lies outside the space: no parameters that would draw the sampler towards it.
    assert (baseline.params, baseline.distributions) == ({}, {})
    assert found[0].configuration == {"seed": 32}
    assert baseline.user_attrs["parameters"] == 421_642
    assert "proposal" not in baseline.user_attrs
    assert (point.params["depth"], point.params["rate"]) == (2, 0.25)
    # What a point leaves open is proposed.
    assert set(point.params) == {"depth", "rate", "width_1", "width_2"}
    assert set(free.params) >= {"depth", "rate", "width_1"}
    assert len(others) == 2


def test_a_point_s_basis_says_that_it_is_one() -> None:
    study = _study()
    given = [Given(origin="point 1", values={"depth": 1, "rate": 0.25, "width_1": 8})]
    proposer = _make(study, given=given)
    _search(proposer, 2)
    assert [basis["by"] for basis in _attr(study, "proposal")] == ["point", "start"]


def test_a_given_trial_that_cannot_be_tried_is_there_with_the_reason() -> None:
    study = _study()
    refused = Realised(configuration={"seed": 64}, key="seed-64", refusal="too large")
    none = Realised(configuration=None, key="", refusal="makes no network")
    given = [Given(origin="baseline a", realised=r) for r in (refused, none)]
    proposer = _make(study, given=given)
    first, second = proposer.ask(), proposer.ask()
    assert (first.refusal, first.configuration) == ("too large", {"seed": 64})
    assert (second.refusal, second.configuration) == ("makes no network", None)
    assert _attr(study, "refusal") == ["too large", "makes no network"]
    # It is told by the driver; nobody else has it.
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2
    assert "key" not in study.trials[1].user_attrs


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_is_tried_with_other_values_of_what_it_leaves_open(kind: str) -> None:
    study = _study()
    realise = _refusing(lambda values: values["rate"] > 0.02)
    given = [Given(origin="point 1", values={"depth": 1})]
    proposal = _make(study, kind, realise=realise, given=given).ask()
    assert proposal.refusal == ""
    assert study.trials[0].params["depth"] == 1
    assert study.trials[0].params["rate"] <= 0.02
    assert study.trials[0].user_attrs["origin"] == "point 1"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_is_drawn_past(kind: str) -> None:
    study = _study()
    # The model would go to a rate of 0.1.
    realise = _refusing(lambda values: values["rate"] > 0.02 or values["depth"] > 1)
    found = _search(_make(study, kind, realise=realise), 12)
    assert all(proposal.refusal == "" for proposal in found)
    assert all(trial.params["rate"] <= 0.02 for trial in study.trials)
    assert len(set(_attr(study, "key"))) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_where_everything_is_refused_a_proposal_says_why(kind: str) -> None:
    study = _study()
    proposal = _make(study, kind, realise=_refusing(lambda values: True)).ask()
    assert proposal.refusal == "too large"
    assert study.trials[0].user_attrs["refusal"] == "too large"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False])
def test_nothing_is_tried_twice_until_all_was_and_then_it_is_called_so(
    kind: str, told: bool
) -> None:
    study = _study()
    proposer = _make(study, kind, _few)
    for _ in range(9):
        proposal = proposer.ask()
        if told:
            _train(proposer, proposal, 0.1 * proposal.number)
    keys, origins = _attr(study, "key"), _attr(study, "origin")
    assert len(set(keys[:6])) == 6
    for number in (6, 7, 8):
        twin = keys.index(keys[number])
        assert twin < 6
        assert origins[number] == f"replicate of trial {twin}"
    assert not any(origin.startswith("replicate") for origin in origins[:6])


def test_a_baseline_s_configuration_is_not_proposed_again() -> None:
    study = _study()
    twin = _realise({"filters": 4, "pooling": "max"})
    proposer = _make(study, draw=_few, given=[Given(origin="baseline a", realised=twin)])
    for _ in range(6):
        proposer.ask()
    assert len(set(_attr(study, "key"))) == 6


def test_a_given_point_may_repeat_another() -> None:
    # The user asked for it, and sees it under its name.
    study = _study()
    values = {"filters": 4, "pooling": "max"}
    given = [Given(origin=f"point {i}", values=values) for i in (1, 2)]
    found = _search(_make(study, draw=_few, given=given), 2)
    assert [proposal.configuration for proposal in found] == [values, values]
    assert _attr(study, "origin") == ["point 1", "point 2"]


def test_where_the_model_has_nothing_to_offer_the_basis_does_not_name_it() -> None:
    study = _study()
    calls = 0

    def refuse(values: Mapping[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        return calls < 120  # more than the sampler tries for one proposal

    proposal = _make(study, realise=_refusing(refuse)).ask()
    assert proposal.refusal == ""
    assert _attr(study, "origin") == ["sampler, at random"]
    assert _attr(study, "proposal") == [{"by": "random"}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_proposer_proposes_what_the_old_one_would_have(kind: str) -> None:
    lasting, restarted = _study(), _study()
    proposer = _make(lasting, kind)
    expected = _search(proposer, 10)
    found = [_search(_make(restarted, kind), 1)[0] for _ in range(10)]
    assert list(map(_brief, found)) == list(map(_brief, expected))
    assert _attr(restarted, "proposal") == _attr(lasting, "proposal")


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_depend_on_the_study_s_seed(kind: str) -> None:
    first, same, other = (
        [_brief(proposal) for proposal in _search(_make(_study(), kind, seed=seed), 6)]
        for seed in (0, 0, 1)
    )
    assert first == same
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_one_draw_is_enough_for_one_proposal(kind: str) -> None:
    # Every trial has dice of its own: the draws of earlier ones are not drawn again.
    calls = 0

    def refuse(values: Mapping[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        return False

    _search(_make(_study(), kind, realise=_refusing(refuse)), 10)
    assert calls == 10


@pytest.mark.parametrize("kind", KINDS)
def test_several_asked_at_once_differ(kind: str) -> None:
    proposer = _make(_study(), kind)
    _search(proposer, 6)
    configurations = [proposer.ask().configuration for _ in range(6)]
    assert all(a != b for i, a in enumerate(configurations) for b in configurations[:i])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_sampler_notes_on_other_trials_is_not_disturbed(kind: str) -> None:
    study = _study()
    _search(_make(study, kind), 6)
    assert [trial.system_attrs for trial in study.trials] == [{}] * 6


def test_a_trial_that_was_made_before_is_taken_over_as_it_was() -> None:
    made, later = _study(), _study()
    first = _make(made)
    templates = [first.ask().template for _ in range(5)]
    assert [template.number for template in templates] == list(range(5))
    second, ledger = _make(later), Ledger(later)
    for template in templates:
        ledger.add(template)
    for old, new in zip(made.trials, later.trials, strict=True):
        assert (new.params, new.distributions) == (old.params, old.distributions)
        assert (new.user_attrs, new.state) == (old.user_attrs, TrialState.RUNNING)
    assert _brief(second.ask()) == _brief(first.ask())


def test_the_study_opens_with_plain_optuna_s_samplers() -> None:
    study = _study()
    _search(_make(study), 6)
    study.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=2)
    trial = study.ask()
    values = _wide(trial)
    assert values.keys() >= {"depth", "rate", "width_1"}
    kinds = {type(d) for t in study.trials for d in t.distributions.values()}
    assert CategoricalDistribution not in kinds
