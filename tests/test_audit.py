"""The pruning audit: what stopping costs, told from trials that ran on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from data.images import ImageShape
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.explain.audit import Audit, audit, audit_of, rank_correlation, value_at, why_no_audit
from search.explain.audit_advice import Agreement, advise
from search.record.record import EpochRow
from search.record.study import Outcome, Study, Trial
from search.screen.result import build_result

MakeConfig = Callable[..., StudyConfig]
MakeStudy = Callable[..., Study]


def trial(number: int, outcome: Outcome, values: Sequence[float | None]) -> Trial:
    """Return a trial with these validation accuracies, by epoch."""
    rows = [
        EpochRow(
            trial=number,
            epoch=epoch,
            attempt=1,
            train_loss=0.5,
            train_accuracy=0.8,
            val_loss=0.5,
            val_accuracy=value,
            learning_rate=0.1,
            images_per_second=1000.0,
            seconds=1.0,
            at=0.0,
        )
        for epoch, value in enumerate(values, start=1)
    ]
    return Trial(
        number=number,
        outcome=outcome,
        reason="",
        origin="sampler",
        configuration=None,
        parameters=100,
        multiply_adds=100,
        refusal="",
        proposal={},
        epochs=tuple(rows),
    )


def decided(number: int, action: str, *, rung: int = 1, epoch: int = 1) -> dict[str, Any]:
    """Return a decision as the record has it."""
    row = {"trial": number, "action": action, "bracket": 0, "rung": rung, "epoch": epoch}
    return row | {"value": 0.5}


AUDITING = {"form": "stopping", "audit_share": 0.5}
# Three epochs each; the rung is at epoch 1. Trials 0 to 4 went on, 5 and 6 were stopped there.
WENT_ON = [trial(n, "complete", [0.5, 0.6, 0.80 + 0.02 * n]) for n in range(5)]
STOPPED = [trial(5, "pruned", [0.3]), trial(6, "pruned", [0.3, 0.31])]
AUDITED = [
    trial(7, "complete", [0.4, 0.7, 0.90]),
    trial(8, "complete", [0.4, 0.85, 0.80]),
    trial(9, "complete", [0.4, 0.5, 0.70]),
    trial(10, "infeasible", [0.4, None]),
    trial(11, "failed", [0.4, 0.6]),
    trial(12, "running", [0.4, 0.6]),
]
DECISIONS = [
    *(decided(t.number, "continue") for t in WENT_ON),
    *(decided(t.number, "stop") for t in STOPPED),
    *(decided(t.number, "audit") for t in AUDITED),
]


@pytest.fixture
def found(make_config: MakeConfig) -> Audit:
    """Return the audit of the trials above."""
    config = make_config(max_epochs=3, asha=AUDITING)
    result = audit_of(config, [*WENT_ON, *STOPPED, *AUDITED], DECISIONS)
    assert result is not None
    return result


def test_each_audited_trial_has_a_verdict(found: Audit) -> None:
    assert [(row.trial, row.final, row.verdict) for row in found.trials] == [
        (7, 0.90, "false stop"),  # the best of the others has 0.88
        (8, 0.85, "misjudged"),  # their median at the end is 0.84
        (9, 0.70, "rightly stopped"),
        (10, None, "diverged: rightly stopped"),
        (11, None, "failed before its end"),
        (12, None, "still runs"),
    ]
    assert found.best_of_others == 0.88
    assert found.median_final == pytest.approx(0.84)


def test_shares_are_of_the_trials_that_came_to_an_end_of_their_own(found: Audit) -> None:
    assert (found.false_stops.count, found.false_stops.of) == (1, 4)
    assert (found.misjudged.count, found.misjudged.of) == (2, 4)
    # Wilson's interval of 1 in 4 and of 2 in 4, by a table.
    assert found.false_stops.ci95 == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert found.misjudged.ci95 == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_regret_is_the_mean_of_what_the_audit_found_above_the_others(
    found: Audit, make_config: MakeConfig
) -> None:
    assert found.regret == pytest.approx(0.02 / 4)
    assert found.regret is not None and found.regret_ci95 is not None
    low, high = found.regret_ci95
    # In about a third of the samples of four the one false stop is not there.
    assert low == 0.0
    assert found.regret < high <= 0.02
    config = make_config(max_epochs=3, asha=AUDITING)
    again = audit_of(config, [*WENT_ON, *STOPPED, *AUDITED], DECISIONS)
    assert again == found


def test_in_the_promotion_form_a_trial_that_only_had_to_wait_does_not_count(
    make_config: MakeConfig,
) -> None:
    asha = {"form": "promotion", "audit_share": 0.5, "reduction_factor": 2, "min_competitors": 3}
    config = make_config(max_epochs=3, asha=asha)
    trials = [
        trial(0, "complete", [0.7, 0.7, 0.90]),  # audited too early to be compared
        trial(1, "complete", [0.4, 0.7, 0.95]),  # audited, and low when others came
        trial(2, "pruned", [0.5]),
        trial(3, "pruned", [0.6]),
        trial(4, "complete", [0.8, 0.7, 0.85]),
    ]
    decisions = [
        decided(0, "audit") | {"value": 0.7},
        decided(1, "audit") | {"value": 0.4},
        decided(2, "pause") | {"value": 0.5},
        # The first that has three others: now the first one is among the best two of four.
        decided(3, "pause") | {"value": 0.6},
        decided(4, "continue") | {"value": 0.8},
    ]
    found = audit_of(config, trials, decisions)
    assert found is not None
    assert [row.verdict for row in found.trials] == ["would have been promoted", "false stop"]
    assert (found.best_of_others, found.false_stops.of) == (0.90, 1)
    assert found.regret == pytest.approx(0.05)
    assert found.saved_epochs == 2 + 2  # of the two that were never promoted
    before = audit_of(config, trials[:3], decisions[:3])
    assert before is not None
    assert [row.promotable for row in before.trials] == [False, False]


def test_epochs_are_counted_that_stopping_saved_and_the_audit_took(found: Audit) -> None:
    assert found.saved_epochs == 2 + 1
    assert found.trained_epochs == 5 * 3 + 1 + 2 + 3 * 3 + 2 + 2 + 2
    assert found.audit_epochs == 3 * 2 + 1 + 1 + 1


def test_what_cannot_be_told_yet_is_none(make_config: MakeConfig) -> None:
    config = make_config(max_epochs=3, asha=AUDITING)
    trials = [trial(0, "complete", [0.5, 0.6, 0.7]), trial(1, "running", [0.4])]
    assert audit_of(config, trials, [decided(0, "continue")]) is None
    found = audit_of(config, trials, [decided(0, "continue"), decided(1, "audit")])
    assert found is not None
    assert (found.regret, found.regret_ci95) == (None, None)
    assert (found.false_stops.of, found.false_stops.ci95) == (0, (0.0, 1.0))
    assert [row.tau for row in found.agreement] == [None]
    assert found.advice.text.startswith("Too few audited trials to tell (0)")


def test_without_another_trial_with_a_value_there_is_no_regret(make_config: MakeConfig) -> None:
    config = make_config(max_epochs=3, asha=AUDITING)
    trials = [trial(0, "infeasible", [None]), trial(1, "complete", [0.4, 0.5, 0.6])]
    found = audit_of(config, trials, [decided(1, "audit")])
    assert found is not None and found.best_of_others is None
    assert (found.regret, found.regret_ci95) == (None, None)


def test_the_value_at_a_rung_is_the_best_by_then_and_none_before_it() -> None:
    some = trial(0, "pruned", [0.5, 0.7, 0.6])
    assert [value_at(some, epochs) for epochs in (1, 2, 3, 4)] == [0.5, 0.7, 0.7, None]
    assert value_at(trial(0, "infeasible", [None]), 1) is None


def test_rank_correlation_is_kendalls_and_weights_are_copies() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        one = draw.integers(5, size=12).astype(float)  # with ties
        other = one + draw.integers(4, size=12).astype(float)
        expected = kendalltau(one, other).statistic
        assert rank_correlation(one, other, np.ones(12)) == pytest.approx(expected)
        copies = draw.integers(1, 4, size=12)
        expected = kendalltau(np.repeat(one, copies), np.repeat(other, copies)).statistic
        assert rank_correlation(one, other, copies.astype(float)) == pytest.approx(expected)
    assert rank_correlation(np.ones(3), np.arange(3.0), np.ones(3)) is None


def test_rungs_are_compared_with_the_end_and_audited_trials_stand_for_the_stopped(
    make_config: MakeConfig,
) -> None:
    # At epoch 1 the two audited trials rank last and at epoch 3 first; all else keeps its order.
    trials = [trial(n, "complete", [0.5 + 0.01 * n, 0.6, 0.5, 0.8 + 0.01 * n]) for n in range(6)]
    trials += [trial(n, "complete", [0.4, 0.7, 0.7, 0.9 + 0.01 * n]) for n in (6, 7)]
    decisions = [decided(6, "audit"), decided(7, "audit")]
    taus: list[list[float]] = []
    for share in (1.0, 0.1):
        asha = AUDITING | {"audit_share": share, "grace_epochs": 3}
        config = make_config(max_epochs=4, asha=asha)
        found = audit_of(config, trials, decisions)
        assert found is not None
        # Below the first rung one more place comes into question: a rung earlier.
        assert [(row.epochs, row.trials) for row in found.agreement] == [(1, 8), (3, 8)]
        taus.append([row.tau for row in found.agreement if row.tau is not None])
    assert taus[0][0] > 0 > taus[1][0]
    assert taus[0][1] > 0


def agreement(*taus: float | None, first: int = 1) -> list[Agreement]:
    """Return agreements at rungs three times as high each."""
    return [Agreement(epochs=first * 3**i, tau=tau, trials=30) for i, tau in enumerate(taus)]


@pytest.mark.parametrize(
    ("facts", "said", "changes"),
    [
        ({"audited": 9, "false_stops": 5}, r"Too few audited trials to tell \(9\)", {}),
        (
            {"false_stops": 2, "agreement": agreement(0.2, 0.55, 0.9)},
            r"2 of 20 .* would have won. After 1 epoch \(Kendall's tau 0.20\) the ranking tells"
            r" little of the final one, after 3 epochs \(Kendall's tau 0.55\) it does",
            {"asha.grace_epochs": 3},
        ),
        (
            {"false_stops": 2, "agreement": agreement(0.2, 0.3, 0.4)},
            r"nor does it at any rung up to 9 epochs",
            {"asha.grace_epochs": 9},
        ),
        (
            {"false_stops": 1, "agreement": agreement(0.8, 0.9)},
            r"a fair guide, but too few trials go on",
            {"asha.reduction_factor": 2},
        ),
        (
            {"false_stops": 1, "eta": 2, "agreement": agreement(0.8, 0.9)},
            r"Half of the trials go on at each rung already",
            {"asha.grace_epochs": 3},
        ),
        ({"misjudged": 4}, r"Nothing to change: .* 4 of 20 ended as well as half of those", {}),
        ({"audited": 12}, r"Nothing was misjudged among 12 audited trials; from 20 on", {}),
        ({}, r"None of 20 .* misjudged: more of them can be", {"asha.reduction_factor": 4}),
        (
            {"grace": 3, "agreement": agreement(0.6, 0.7)},
            r"ranking after 1 epoch \(Kendall's tau 0.60\) tells the final one already",
            {"asha.grace_epochs": 1},
        ),
        (
            {"grace": 3, "agreement": agreement(0.3, 0.7)},
            r"but the ranking after 1 epoch \(Kendall's tau 0.30\) tells too little to stop there",
            {},
        ),
    ],
)
def test_advice_follows_from_the_audit(
    facts: dict[str, Any], said: str, changes: dict[str, int]
) -> None:

    known: dict[str, Any] = {
        "grace": 1,
        "eta": 3,
        "audited": 20,
        "false_stops": 0,
        "misjudged": 0,
        "agreement": agreement(0.7, 0.8),
    }
    given = advise(**(known | facts))
    assert re.search(said, given.text), given.text
    assert given.changes == changes
    assert all(f"{key}={value}" in given.text for key, value in changes.items())


@pytest.mark.parametrize(
    ("asha", "said"),
    [
        ({"enabled": False}, "ASHA is off in this study"),
        (
            {"form": "promotion"},
            "The audit was off. Switch it on in another study with --set asha.audit_share=0.05: one"
            " in twenty of the trials to be paused at a rung then runs on",
        ),
        (
            {"form": "stopping", "audit_share": 0.5},
            "No trial was drawn for the audit: 0 trials stopped, each with a chance of 50.0%.",
        ),
    ],
)
def test_a_study_without_audited_trials_says_why(
    make_study: MakeStudy, asha: dict[str, Any], said: str
) -> None:
    assert why_no_audit(make_study(asha=asha)).startswith(said)


def test_a_search_with_an_audit_tells_it_in_its_result(
    make_study: MakeStudy, shape: ImageShape, make_epoch: Callable[..., EpochMetrics]
) -> None:
    asha = AUDITING | {"audit_share": 1.0, "min_competitors": 1}
    study = make_study(asha=asha, max_epochs=2, budget={"trials": 4})
    driver = Driver(study, shape=shape, slots=1)
    # The third is the last of three at the rung, and the best in the end.
    for final in (0.80, 0.81, 0.95, 0.70):
        assignment = driver.next()
        assert assignment is not None
        early = 0.5 if final < 0.9 else 0.1
        driver.on_epoch(assignment.trial, make_epoch(1, early))
        for epoch in itertools.count(2):
            if driver.on_epoch(assignment.trial, make_epoch(epoch, final)).action == "stop":
                break
    found = audit(study)
    assert found is not None
    assert [(row.trial, row.verdict) for row in found.trials] == [(2, "false stop")]
    assert found.regret == pytest.approx(0.95 - 0.81)
    content = build_result(study)["audit"]
    assert content == found.to_dict()
    assert content["trials"][0]["final"] == 0.95
    assert build_result(make_study("other"))["audit"] is None
