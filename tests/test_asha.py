"""The stopping rule: numbers in, decisions out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.asha import Asha, Decision, rung_epochs


def _asha(**changes: Any) -> Asha:
    values = {"grace_epochs": 1, "reduction_factor": 3, "max_epochs": 9, "min_competitors": 1}
    return Asha(**(values | changes))


def _arrive(asha: Asha, epoch: int, *values: float, first_trial: int = 0) -> list[Decision]:
    found = [asha.decide(first_trial + i, epoch, value) for i, value in enumerate(values)]
    assert all(decision is not None for decision in found), "every arrival at a rung is decided"
    return [decision for decision in found if decision is not None]


@pytest.mark.parametrize(
    ("grace", "factor", "longest", "expected"),
    [
        (1, 3, 9, [1, 3]),  # 9 itself is no rung: who gets there is complete
        (1, 3, 10, [1, 3, 9]),
        (1, 2, 8, [1, 2, 4]),
        (2, 4, 50, [2, 8, 32]),
        (5, 2, 81, [5, 10, 20, 40, 80]),
        (9, 3, 9, []),
        (1, 3, 1, []),
        (1, 3, 0, []),  # ASHA switched off
    ],
)
def test_rungs_grow_by_the_factor_and_stay_below_the_longest(
    grace: int, factor: int, longest: int, expected: list[int]
) -> None:
    found = rung_epochs(grace_epochs=grace, reduction_factor=factor, max_epochs=longest)
    assert found == expected


def test_the_best_third_goes_on() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.1, 0.2, 0.3, 0.4, 0.5)
    # 6 values: the best ceil(6 / 3) = 2 go on.
    (second,) = _arrive(asha, 1, 0.45, first_trial=5)
    assert (second.action, second.rank, second.cutoff) == ("continue", 2, 0.45)
    # 7 values: the best 3 go on, 0.4 is the third.
    (fifth,) = _arrive(asha, 1, 0.25, first_trial=6)
    assert (fifth.action, fifth.rank, fifth.cutoff) == ("stop", 5, 0.4)
    assert fifth.competitors == 6
    assert fifth.reason == "rank 5 of 7 at the rung of 1 epoch; the best 3 go on"


def test_a_tie_with_the_cutoff_goes_on() -> None:
    asha = _asha()
    decisions = _arrive(asha, 1, 0.5, 0.5, 0.5, 0.5, 0.4)
    assert [decision.action for decision in decisions] == ["continue"] * 4 + ["stop"]
    # Equal values share the better rank.
    assert [decision.rank for decision in decisions] == [1, 1, 1, 1, 5]


def test_nothing_is_stopped_before_enough_others_are_there() -> None:
    asha = _asha(min_competitors=3)
    decisions = _arrive(asha, 1, 0.9, 0.8, 0.1, 0.2)
    assert [decision.action for decision in decisions] == ["continue"] * 3 + ["stop"]
    assert [decision.competitors for decision in decisions] == [0, 1, 2, 3]
    assert decisions[2].cutoff is None
    assert decisions[2].reason == (
        "only 2 others at the rung of 1 epoch, 3 are needed to stop a trial"
    )


def test_rungs_are_judged_each_by_its_own_values() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.7, 0.8, 0.9)
    (first,) = _arrive(asha, 3, 0.1)
    assert (first.action, first.rung, first.competitors) == ("continue", 3, 0)
    assert asha.rungs == {1: {0: 0.7, 1: 0.8, 2: 0.9}, 3: {0: 0.1}}


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(epoch: int, value: float) -> None:
    asha = _asha()
    with pytest.raises(ValueError, match=f"the value of trial 4 at epoch {epoch} is"):
        asha.decide(4, epoch, value)
    assert asha.rungs == {1: {}, 3: {}}


def test_before_the_first_rung_there_is_nothing_to_decide() -> None:
    asha = _asha(grace_epochs=2, max_epochs=50)
    _arrive(asha, 2, 0.7, 0.8, 0.9)
    assert asha.decide(7, 1, 0.0) is None
    assert 7 not in asha.rungs[2]


def test_an_early_comer_is_stopped_between_rungs_once_others_have_passed_it() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.5)
    assert asha.decide(0, 2, 0.5) is None  # alone, it goes on, and there is nothing to record
    _arrive(asha, 1, 0.6, 0.7, first_trial=1)
    # It has learnt since, but is judged by what it was worth at the rung: 0.5 of 0.5, 0.6, 0.7.
    late = asha.decide(0, 2, 0.99)
    assert late is not None
    assert (late.action, late.rung, late.value, late.rank) == ("stop", 1, 0.5, 3)
    assert asha.rungs[1] == {0: 0.5, 1: 0.6, 2: 0.7}


def test_a_trial_is_judged_again_at_the_last_rung_it_passed_only() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.5)
    _arrive(asha, 3, 0.9)
    _arrive(asha, 1, 0.6, 0.7, 0.8, first_trial=1)
    # At the rung of 1 epoch it would be stopped now; at 3 it is the best, and that is later.
    assert asha.decide(0, 4, 0.9) is None


def test_a_trial_that_comes_to_a_rung_again_counts_once() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.5, 0.6)
    (again,) = _arrive(asha, 1, 0.7, first_trial=0)
    assert (again.rank, again.competitors) == (1, 1)
    assert list(asha.rungs[1].items()) == [(1, 0.6), (0, 0.7)]


def test_only_rungs_are_restored() -> None:
    asha = _asha()
    for epoch, value in ((1, 0.3), (2, 0.4), (3, 0.5)):
        asha.restore(0, epoch, value)
    assert asha.rungs == {1: {0: 0.3}, 3: {0: 0.5}}


_VALUES = st.integers(0, 12).map(lambda number: number / 12)  # coarse, so that ties happen


@given(
    values=st.lists(_VALUES, min_size=1, max_size=40),
    factor=st.integers(2, 5),
    competitors=st.integers(1, 6),
)
def test_an_arrival_stops_exactly_when_its_rank_is_past_the_share(
    values: list[float], factor: int, competitors: int
) -> None:
    asha = _asha(reduction_factor=factor, min_competitors=competitors, max_epochs=100)
    for number, decision in enumerate(_arrive(asha, 1, *values), start=1):
        better = sum(other > values[number - 1] for other in values[:number])
        expected = number > competitors and better + 1 > math.ceil(number / factor)
        assert (decision.action == "stop") == expected


@given(values=st.lists(st.floats(0, 1), unique=True, min_size=1, max_size=40))
def test_a_strictly_increasing_arrival_is_never_stopped(values: list[float]) -> None:
    decisions = _arrive(_asha(), 1, *sorted(values))
    assert {decision.action for decision in decisions} == {"continue"}
    assert {decision.rank for decision in decisions} == {1}


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 7), _VALUES, st.booleans()), max_size=70),
    grace=st.integers(1, 2),
    factor=st.integers(2, 3),
    competitors=st.integers(1, 3),
)
def test_rungs_restored_at_any_time_decide_as_if_never_stopped(
    events: list[tuple[int, float, bool]], grace: int, factor: int, competitors: int
) -> None:
    ladder = {
        "grace_epochs": grace,
        "reduction_factor": factor,
        "max_epochs": 12,
        "min_competitors": competitors,
    }
    lasting, restarted = _asha(**ladder), _asha(**ladder)
    record: dict[int, list[float]] = {}
    ended: set[int] = set()
    for trial, value, crash in events:
        if trial in ended:
            continue
        if crash:  # a new process knows only what was recorded, read trial by trial
            restarted = _asha(**ladder)
            for number in sorted(record):
                for epoch, best in enumerate(record[number], start=1):
                    restarted.restore(number, epoch, best)
        bests = record.setdefault(trial, [])
        bests.append(max([value, *bests[-1:]]))
        decision = lasting.decide(trial, len(bests), bests[-1])
        assert restarted.decide(trial, len(bests), bests[-1]) == decision
        assert restarted.rungs == lasting.rungs
        if len(bests) == 12 or (decision is not None and decision.action == "stop"):
            ended.add(trial)
