"""Successive halving over one study: stopping, brackets, audit. Numbers in, decisions out."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.prune.asha import Asha, AshaRules
from search.prune.ladder import Decision


def _asha(**changes: Any) -> Asha:
    values: dict[str, Any] = {"grace_epochs": 1, "reduction_factor": 3, "max_epochs": 9}
    values |= {"min_competitors": 1, "form": "stopping"}
    return Asha(AshaRules(**(values | changes)))


def _arrive(asha: Asha, epoch: int, *values: float, first_trial: int = 0) -> list[Decision]:
    found = [asha.decide(first_trial + i, epoch, value) for i, value in enumerate(values)]
    assert all(decision is not None for decision in found), "every arrival at a rung is decided"
    return [decision for decision in found if decision is not None]


def test_the_best_third_goes_on() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.1, 0.2, 0.3, 0.4, 0.5)
    # 6 values: the best ceil(6 / 3) = 2 go on.
    (second,) = _arrive(asha, 1, 0.45, first_trial=5)
    assert (second.action, second.rank, second.cutoff) == ("continue", 2, 0.45)
    # 7 values: the best 3 go on, 0.4 is the third.
    (fifth,) = _arrive(asha, 1, 0.25, first_trial=6)
    assert (fifth.action, fifth.rank, fifth.cutoff) == ("stop", 5, 0.4)
    assert (fifth.trial, fifth.bracket, fifth.rung, fifth.competitors) == (6, 0, 1, 6)
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
    assert asha.rungs() == {1: {0: 0.7, 1: 0.8, 2: 0.9}, 3: {0: 0.1}}


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", ["stopping", "promotion"])
def test_a_value_that_is_not_finite_is_refused(form: str, epoch: int, value: float) -> None:
    asha = _asha(form=form, grow=form == "promotion")
    with pytest.raises(ValueError, match=f"the value of trial 4 at epoch {epoch} is"):
        asha.decide(4, epoch, value)
    assert asha.rungs() == {1: {}, 3: {}}
    assert asha.paused == {}


def test_before_the_first_rung_there_is_nothing_to_decide() -> None:
    asha = _asha(grace_epochs=2, max_epochs=50)
    _arrive(asha, 2, 0.7, 0.8, 0.9)
    assert asha.decide(7, 1, 0.0) is None
    assert 7 not in asha.rungs()[2]


@pytest.mark.parametrize("form", ["stopping", "promotion"])
def test_without_rungs_nothing_is_ever_decided(form: str) -> None:
    asha = _asha(max_epochs=0, form=form)  # switched off
    assert asha.rungs() == {}
    assert [asha.decide(t, e, 0.1 * t) for t in range(5) for e in range(1, 10)] == [None] * 45
    assert asha.next_promotion() is None


@pytest.mark.parametrize("form", ["stopping", "promotion"])
def test_who_has_trained_to_the_end_is_not_judged(form: str) -> None:
    asha = _asha(form=form)
    _arrive(asha, 1, 0.9, 0.8, 0.1)
    assert asha.decide(2, 9, 0.1) is None
    assert asha.decide(2, 10, 0.1) is None


def test_an_early_comer_is_stopped_between_rungs_once_others_have_passed_it() -> None:
    asha = _asha()
    _arrive(asha, 1, 0.5)
    assert asha.decide(0, 2, 0.5) is None  # alone, it goes on, and there is nothing to record
    _arrive(asha, 1, 0.6, 0.7, first_trial=1)
    # It has learnt since, but is judged by what it was worth at the rung: 0.5 of 0.5, 0.6, 0.7.
    late = asha.decide(0, 2, 0.99)
    assert late is not None
    assert (late.action, late.rung, late.value, late.rank) == ("stop", 1, 0.5, 3)
    assert asha.rungs()[1] == {0: 0.5, 1: 0.6, 2: 0.7}


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
    assert list(asha.rungs()[1].items()) == [(1, 0.6), (0, 0.7)]


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


_RULES = st.fixed_dictionaries(
    {
        "grace_epochs": st.integers(1, 2),
        "reduction_factor": st.integers(2, 3),
        "max_epochs": st.just(12),
        "min_competitors": st.integers(1, 3),
        "brackets": st.integers(1, 3),
        "seed": st.integers(0, 3),
    }
)
_FORMS = st.sampled_from(
    [
        {"form": "stopping"},
        {"form": "stopping", "audit_share": 0.5},
        {"form": "promotion"},
        {"form": "promotion", "audit_share": 0.5},
        {"form": "promotion", "grow": True},
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    rules=_RULES,
    form=_FORMS,
    events=st.lists(st.tuples(st.integers(0, 7), _VALUES, st.booleans()), max_size=60),
)
def test_the_same_calls_made_again_decide_as_if_never_stopped(
    rules: dict[str, Any], form: dict[str, Any], events: list[tuple[int, float, bool]]
) -> None:
    lasting, restarted = Asha(AshaRules(**rules, **form)), Asha(AshaRules(**rules, **form))
    calls: list[tuple[str, Any]] = []
    bests: dict[int, list[float]] = {}
    ended: set[int] = set()

    def make(asha: Asha, name: str, args: Any) -> Any:
        return getattr(asha, name)(*args)

    for trial, value, crash in events:
        if crash:  # a new process makes the calls of the old one
            restarted = Asha(AshaRules(**rules, **form))
            for name, args in calls:
                make(restarted, name, args)
        assert restarted.next_promotion() == lasting.next_promotion()
        if promotion := lasting.next_promotion():
            calls.append(("promote", (promotion.trial,)))
        elif trial in ended or trial in lasting.paused:
            continue
        else:
            values = bests.setdefault(trial, [])
            values.append(max([value, *values[-1:]]))
            calls.append(("decide", (trial, len(values), values[-1])))
        decision = make(lasting, *calls[-1])
        assert make(restarted, *calls[-1]) == decision
        assert restarted.paused == lasting.paused
        assert restarted.rungs() == lasting.rungs()
        if len(bests.get(trial, ())) == 12 or (decision is not None and decision.action == "stop"):
            ended.add(trial)


def _bracketed(brackets: int, **changes: Any) -> Asha:
    return _asha(max_epochs=81, brackets=brackets, **changes)


def test_brackets_get_hyperband_s_shares() -> None:
    # Rungs 1, 3, 9, 27; then 3, 9, 27; then 9, 27: 4, 3 and 2 halvings.
    asha = _bracketed(3)
    counts = Counter(asha.bracket_of(trial) for trial in range(5000))
    shares = [81 / 5, 27 / 4, 9 / 3]
    for bracket, share in enumerate(shares):
        expected = share / sum(shares)
        deviation = math.sqrt(expected * (1 - expected) / 5000)
        assert abs(counts[bracket] / 5000 - expected) < 4 * deviation
    assert set(counts) == {0, 1, 2}


def test_a_trial_s_bracket_depends_on_the_seed_and_its_number_only() -> None:
    busy, fresh, other = _bracketed(3), _bracketed(3), _bracketed(3, seed=1)
    for trial in range(20):
        busy.decide(trial, 1, 0.1 * trial)
    drawn = [busy.bracket_of(trial) for trial in range(200)]
    assert drawn == [fresh.bracket_of(trial) for trial in range(200)]
    assert drawn != [other.bracket_of(trial) for trial in range(200)]


def test_a_bracket_starts_a_rung_later_and_competes_with_itself_only() -> None:
    asha = _bracketed(2)
    assert list(asha.rungs(0)) == [1, 3, 9, 27]
    assert list(asha.rungs(1)) == [3, 9, 27]
    for trial in range(60):
        asha.decide(trial, 1, 0.01 * trial)
        decision = asha.decide(trial, 3, 0.01 * trial)
        assert decision is not None and decision.bracket == asha.bracket_of(trial)
        assert decision.rung == 3
    for bracket in (0, 1):
        mine = {trial for trial in range(60) if asha.bracket_of(trial) == bracket}
        assert mine and set(asha.rungs(bracket)[3]) == mine
    assert set(asha.rungs(0)[1]) == set(asha.rungs(0)[3])


def test_the_later_bracket_s_weak_trials_are_not_stopped_at_the_first_rung() -> None:
    asha = _bracketed(2)
    late = [trial for trial in range(60) if asha.bracket_of(trial) == 1]
    assert len(late) > 3
    assert [asha.decide(trial, 1, -0.01 * trial) for trial in late] == [None] * len(late)
    stopped = [asha.decide(trial, 3, -0.01 * trial) for trial in late]
    assert [d.action for d in stopped if d is not None].count("stop") > 0


def test_more_brackets_than_rungs_are_as_many_as_there_are_rungs() -> None:
    many, two = _asha(brackets=9), _asha(brackets=2)
    assert {many.bracket_of(trial) for trial in range(500)} == {0, 1}
    assert [many.bracket_of(t) for t in range(50)] == [two.bracket_of(t) for t in range(50)]
    assert list(many.rungs(1)) == [3]


def test_with_a_share_of_one_every_stop_becomes_an_audit() -> None:
    asha, plain = _asha(audit_share=1.0), _asha()
    values = [0.5, 0.4, 0.6, 0.3, 0.2, 0.7, 0.1]
    audited, stopped = _arrive(asha, 1, *values), _arrive(plain, 1, *values)
    assert [d.action for d in stopped].count("stop") == 4
    assert [d.action for d in audited] == [d.action.replace("stop", "audit") for d in stopped]
    first = next(d for d in audited if d.action == "audit")
    assert first.reason == (
        "rank 2 of 2 at the rung of 1 epoch; only the best goes on;"
        " runs on all the same, for the audit"
    )


def test_an_audited_trial_is_judged_no_more_and_enters_no_later_rung() -> None:
    asha = _asha(audit_share=1.0)
    _arrive(asha, 1, 0.5, 0.4)
    assert [asha.decide(1, epoch, 0.9) for epoch in range(2, 9)] == [None] * 7
    assert asha.rungs() == {1: {0: 0.5, 1: 0.4}, 3: {}}


def test_with_a_share_of_zero_nothing_is_audited() -> None:
    actions = {d.action for d in _arrive(_asha(), 1, *[0.9 - 0.01 * i for i in range(60)])}
    assert actions == {"continue", "stop"}


def test_in_the_promotion_form_an_audited_trial_goes_on_without_waiting() -> None:
    asha = _asha(form="promotion", audit_share=1.0)
    first, second, third, fourth = _arrive(asha, 1, 0.5, 0.6, 0.4, 0.9)
    assert [d.action for d in (first, second, third, fourth)] == ["audit"] * 3 + ["continue"]
    assert third.reason.endswith("; goes on without waiting, for the audit")
    assert [asha.decide(1, epoch, 0.99) for epoch in range(2, 9)] == [None] * 7
    # They wait for nothing, are promoted by nobody, and are at no later rung.
    assert (asha.paused, asha.next_promotion()) == ({}, None)
    assert asha.rungs() == {1: {0: 0.5, 1: 0.6, 2: 0.4, 3: 0.9}, 3: {}}
    # What belongs to the best share competes on.
    (at_three,) = _arrive(asha, 3, 0.95, first_trial=3)
    assert (at_three.action, at_three.competitors) == ("audit", 0)


def test_audited_trials_do_not_make_others_train_for_longer() -> None:
    # PASHA's ceiling rises with changes of rank among those that compete; these only run on.
    rules = {"form": "promotion", "grow": True, "max_epochs": 27, "audit_share": 0.5}
    probe = _arrive(_asha(**rules), 1, *[-0.01 * trial for trial in range(40)])
    audited = [d.trial for d in probe if d.action == "audit"]
    competing = [d.trial for d in probe if d.action == "pause"]
    asha = _asha(**rules)
    for trial, at_three in ((audited[0], 0.5), (audited[1], 0.6)):
        for epoch, value in ((1, 1 - at_three), (3, at_three)):
            asha.decide(trial, epoch, value)
    # The two have changed places. Another comes to 3 epochs, and waits for such a change.
    for trial in competing[:2]:
        asha.decide(trial, 1, 0.1)
    first = asha.decide(competing[2], 1, 0.9)
    assert first is not None and first.action == "continue"
    waits = asha.decide(competing[2], 3, 0.91)
    assert waits is not None and waits.action == "pause"
    assert waits.reason.endswith("; waits: no ranking has changed up to 3 epochs")


def _audited(asha: Asha, trials: range) -> set[int]:
    """Return which of weaker and weaker trials are audited."""
    found = {t: asha.decide(t, 1, -0.001 * t) for t in trials}
    return {t for t, decision in found.items() if decision and decision.action == "audit"}


def test_who_is_audited_depends_on_the_seed_and_the_number_only() -> None:
    first = _audited(_asha(audit_share=0.3), range(400))
    assert first == _audited(_asha(audit_share=0.3, max_epochs=27), range(400))
    later = _asha(audit_share=0.3)
    _arrive(later, 1, *[0.5] * 10, first_trial=1000)
    # The very first was alone and went on; now it meets others. The others are drawn as before.
    assert _audited(later, range(1, 400)) - {1} == first - {1}
    assert first != _audited(_asha(audit_share=0.3, seed=1), range(400))
    assert abs(len(first) / 400 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)
    # A larger share holds the smaller one.
    assert first < _audited(_asha(audit_share=0.6), range(400))


@settings(max_examples=100, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 15), _VALUES), max_size=80),
    share=st.sampled_from([0.3, 1.0]),
)
def test_others_are_judged_as_if_audited_trials_had_ended(
    events: list[tuple[int, float]], share: float
) -> None:
    plain, auditing = _asha(), _asha(audit_share=share)
    bests: dict[int, list[float]] = {}
    stopped: set[int] = set()
    for trial, value in events:
        values = bests.setdefault(trial, [])
        if len(values) == 9:
            continue
        values.append(max([value, *values[-1:]]))
        found = auditing.decide(trial, len(values), values[-1])
        if trial in stopped:
            assert found is None  # its end was told; it is only watched
            continue
        expected = plain.decide(trial, len(values), values[-1])
        if expected is not None and expected.action == "stop":
            stopped.add(trial)
            assert found is not None and found.action in ("stop", "audit")
            assert (found.cutoff, found.rank) == (expected.cutoff, expected.rank)
            if found.action == "stop":
                values += [0.0] * (9 - len(values))  # it has ended
        else:
            assert found == expected
    assert auditing.rungs() == plain.rungs()
