"""Rungs and promotion: who waits, who goes on from its checkpoint, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.prune.asha import LAST_STRETCH, Asha, AshaRules
from search.prune.ladder import Decision, Ladder, rung_epochs


def _asha(**changes: Any) -> Asha:
    values: dict[str, Any] = {"grace_epochs": 1, "reduction_factor": 2, "max_epochs": 8}
    values |= {"min_competitors": 1, "form": "promotion"}
    return Asha(AshaRules(**(values | changes)))


def _arrive(asha: Asha, trial: int, rung: int, value: float) -> Decision:
    decision = asha.decide(trial, rung, value)
    assert decision is not None
    return decision


def _promote(asha: Asha) -> int | None:
    """Promote as the driver does; return the trial."""
    decision = asha.next_promotion()
    if decision is None:
        return None
    assert decision.action == "promote"
    asha.promote(decision.trial)
    return decision.trial


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


def test_successive_halving_by_hand() -> None:
    # arXiv:1810.05934, algorithm 2, eta = 2, one worker: `get_job` looks from the highest rung
    # down for a trial among the best floor(n / 2) that was not promoted, else begins a new one.
    asha = _asha()
    assert _arrive(asha, 0, 1, 0.5).action == "pause"  # floor(1 / 2) = 0
    assert _promote(asha) is None
    assert _arrive(asha, 1, 1, 0.3).action == "pause"
    # Rung 1: 0.5, 0.3; the best 1 goes on.
    assert _promote(asha) == 0
    assert _arrive(asha, 0, 2, 0.55).action == "pause"  # alone at the rung of 2 epochs
    assert _promote(asha) is None
    # Rung 1: 0.6, 0.5, 0.3; the best 1 is the new trial: it does not even stop.
    assert _arrive(asha, 2, 1, 0.6).action == "continue"
    # Rung 2: 0.55, 0.5; the best 1 is trial 0.
    assert _arrive(asha, 2, 2, 0.5).action == "pause"
    assert _promote(asha) == 0
    assert _arrive(asha, 0, 4, 0.58).action == "pause"
    # Rung 1: 0.6, 0.5, 0.3, 0.2; the best 2 went on already.
    assert _arrive(asha, 3, 1, 0.2).action == "pause"
    assert _promote(asha) is None
    assert asha.paused == {0: 4, 1: 1, 2: 2, 3: 1}
    # Rung 1: 0.6, 0.5, 0.4, 0.3, 0.2; the third of five waits ...
    assert _arrive(asha, 4, 1, 0.4).action == "pause"
    assert _promote(asha) is None
    # ... until the sixth lets the best 3 go on.
    assert _arrive(asha, 5, 1, 0.1).action == "pause"
    assert [_promote(asha), _promote(asha)] == [4, None]
    assert asha.rungs() == {
        1: {0: 0.5, 1: 0.3, 2: 0.6, 3: 0.2, 4: 0.4, 5: 0.1},
        2: {0: 0.55, 2: 0.5},
        4: {0: 0.58},
    }


def test_promotion_is_from_the_highest_rung_down_and_the_best_first() -> None:
    asha = _asha(min_competitors=3)
    for trial, value in enumerate([0.5, 0.6, 0.7]):
        assert _arrive(asha, trial, 1, value).action == "pause"
    # The fourth lets the best two go on; the better one first.
    assert _arrive(asha, 3, 1, 0.1).action == "pause"
    assert [_promote(asha), _promote(asha), _promote(asha)] == [2, 1, None]
    for trial in (2, 1):
        assert _arrive(asha, trial, 2, 0.7 + 0.01 * trial).action == "pause"
    for trial, value in ((4, 0.8), (5, 0.81), (6, 0.55), (7, 0.54)):
        action = _arrive(asha, trial, 1, value).action
        assert action == ("continue" if trial < 6 else "pause")
        if trial < 6:
            assert _arrive(asha, trial, 2, 0.5).action == "pause"
    # Rung 2: trials 2 and 1 of four; rung 1: nobody new of the best four of eight.
    waiting_below = _arrive(asha, 8, 1, 0.01), _arrive(asha, 9, 1, 0.02)
    assert [decision.action for decision in waiting_below] == ["pause", "pause"]
    decision = asha.next_promotion()
    assert decision is not None and (decision.trial, decision.rung) == (2, 2)
    assert decision == asha.next_promotion(), "choosing changes nothing"
    assert [_promote(asha), _promote(asha)] == [2, 1]
    # Now rung 1: 10 values, the best 5 go on; the fifth is trial 6.
    decision = asha.next_promotion()
    assert decision is not None
    assert (decision.trial, decision.rung, decision.rank, decision.competitors) == (6, 1, 5, 9)
    assert (decision.value, decision.cutoff) == (0.55, 0.55)
    assert decision.reason == "rank 5 of 10 at the rung of 1 epoch; the best 5 go on"


def test_in_the_last_stretch_the_best_at_the_highest_rung_goes_on() -> None:
    asha = _asha(min_competitors=9)
    assert asha.next_promotion(last_stretch=True) is None
    for trial, value in enumerate([0.5, 0.9, 0.7, 0.7]):
        assert _arrive(asha, trial, 1, value).action == "pause"
    assert asha.next_promotion() is None
    order = []
    while (decision := asha.next_promotion(last_stretch=True)) is not None:
        assert decision.action == "promote" and decision.reason.endswith(LAST_STRETCH)
        order.append((decision.trial, decision.rung))
        asha.promote(decision.trial)
        if (decision.trial, decision.rung) == (2, 1):  # worse than trial 0, but further
            assert _arrive(asha, 2, 2, 0.4).action == "pause"
    assert order == [(1, 1), (2, 1), (2, 2), (3, 1), (0, 1)]


def test_of_equal_values_the_earlier_trial_goes_on() -> None:
    asha = _asha()
    for trial in (3, 1, 2):
        assert _arrive(asha, trial, 1, 0.5).action == ("pause" if trial != 1 else "continue")
    assert _arrive(asha, 4, 1, 0.5).action == "pause"
    assert [_promote(asha), _promote(asha)] == [2, None]


def test_a_trial_that_has_ended_is_not_promoted_but_still_counts() -> None:
    asha = _asha(min_competitors=3)
    for trial, value in enumerate([0.9, 0.8, 0.7]):
        _arrive(asha, trial, 1, value)
    asha.end(0)
    assert asha.paused == {1: 1, 2: 1}
    _arrive(asha, 3, 1, 0.1)
    # The best two of four are 0 and 1: what has ended is not replaced by the third.
    assert [_promote(asha), _promote(asha)] == [1, None]


def test_a_trial_trained_again_after_its_promotion_goes_on() -> None:
    asha = _asha(min_competitors=1)
    _arrive(asha, 0, 1, 0.5)
    _arrive(asha, 1, 1, 0.4)
    assert _promote(asha) == 0
    # Others have passed it, its checkpoint is gone, and it comes to the rung again.
    for trial, value in ((2, 0.6), (3, 0.7)):
        _arrive(asha, trial, 1, value)
    again = _arrive(asha, 0, 1, 0.45)
    assert (again.action, again.reason) == ("continue", "promoted before")
    assert asha.paused == {1: 1}
    assert asha.rungs()[1] == {1: 0.4, 2: 0.6, 3: 0.7, 0: 0.45}


def test_a_trial_that_did_not_have_to_wait_has_been_promoted_too() -> None:
    asha = _asha(min_competitors=1)
    _arrive(asha, 0, 1, 0.5)
    assert _arrive(asha, 1, 1, 0.6).action == "continue"
    for trial, value in ((2, 0.7), (3, 0.8)):
        _arrive(asha, trial, 1, value)
    assert _arrive(asha, 1, 1, 0.55).reason == "promoted before"
    assert asha.paused == {0: 1}


def test_between_rungs_nothing_is_decided() -> None:
    asha = _asha()
    _arrive(asha, 0, 1, 0.5)
    _arrive(asha, 1, 1, 0.6)
    _arrive(asha, 1, 2, 0.6)
    for trial, value in ((2, 0.7), (3, 0.8), (4, 0.9)):
        _arrive(asha, trial, 1, value)
    assert asha.decide(1, 3, 0.6) is None  # in the stopping form it might be stopped here


def test_the_standing_of_a_trial_is_the_reason_it_ends_with() -> None:
    asha = _asha()
    for trial, value in enumerate([0.5, 0.7, 0.6, 0.5]):
        _arrive(asha, trial, 1, value)
    assert asha.standing(3) == "never promoted: rank 3 of 4 at the rung of 1 epoch"
    assert asha.standing(0) == "never promoted: rank 3 of 4 at the rung of 1 epoch"


_VALUES = st.integers(0, 12).map(lambda number: number / 12)


@given(values=st.lists(_VALUES, min_size=1, max_size=30), factor=st.integers(2, 4))
def test_a_pause_says_what_would_have_been_enough(values: list[float], factor: int) -> None:
    asha = _asha(reduction_factor=factor, max_epochs=100, min_competitors=2)
    for trial, value in enumerate(values):
        decision = _arrive(asha, trial, 1, value)
        keep = (trial + 1) // factor
        best = sorted(values[: trial + 1], reverse=True)
        if keep == 0 or trial < 2:
            assert (decision.action, decision.cutoff) == ("pause", None)
        else:
            # It is the lowest value that goes on; of equal ones the earlier trials' do.
            assert decision.cutoff == best[keep - 1]
            assert f"the best {keep} go on" in decision.reason or keep == 1
            if decision.action == "pause":
                assert decision.value <= decision.cutoff
        if decision.action == "pause":
            assert "to stop a trial" not in decision.reason, "nothing is stopped in this form"


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("pent"), st.integers(0, 20), _VALUES), max_size=120),
    factor=st.integers(2, 4),
    competitors=st.integers(1, 4),
    brackets=st.integers(1, 2),
)
def test_who_goes_on_belongs_to_the_best_share_and_goes_on_once(
    events: list[tuple[str, int, float]], factor: int, competitors: int, brackets: int
) -> None:
    asha = _asha(
        reduction_factor=factor, max_epochs=30, min_competitors=competitors, brackets=brackets
    )
    at: dict[int, int] = {}
    """Trials in training, or new -> epochs trained."""
    ended: set[int] = set()
    promoted: set[tuple[int, int]] = set()

    def check_goes_on(decision: Decision) -> None:
        rung = asha.rungs(decision.bracket)[decision.rung]
        keep = len(rung) // factor
        better = [t for t, v in rung.items() if (-v, t) < (-decision.value, decision.trial)]
        assert len(better) < keep and len(rung) > competitors
        assert asha.bracket_of(decision.trial) == decision.bracket
        assert (decision.trial, decision.rung) not in promoted
        promoted.add((decision.trial, decision.rung))

    for kind, trial, value in events:
        if kind == "e" and trial in at:
            asha.end(trial)
            ended.add(trial)
        elif kind == "n":
            waiting, decision = asha.paused, asha.next_promotion()
            if decision is not None:
                assert decision.trial in waiting and decision.trial not in ended
                assert waiting[decision.trial] == decision.rung
                check_goes_on(decision)
                asha.promote(decision.trial)
                assert decision.trial not in asha.paused
            else:
                # Whoever waits is not among the best of its rung.
                for t, rung in waiting.items():
                    values = asha.rungs(asha.bracket_of(t))[rung]
                    better = [u for u, v in values.items() if (-v, u) < (-values[t], t)]
                    enough = len(values) > competitors
                    assert not enough or len(better) >= len(values) // factor
        elif trial not in ended and trial not in asha.paused and at.get(trial, 0) < 30:
            at[trial] = epoch = at.get(trial, 0) + 1
            found = asha.decide(trial, epoch, value)
            rungs = asha.rungs(asha.bracket_of(trial))
            assert (found is None) == (epoch not in rungs)
            if found is not None and found.action == "continue":
                check_goes_on(found)
            elif found is not None:
                assert found.action == "pause" and asha.paused[trial] == epoch


def test_a_ladder_judges_by_the_share_that_is_kept() -> None:
    ladder = Ladder([1, 3], eta=3, min_competitors=1, bracket=2)
    for trial, value in enumerate([0.1, 0.2, 0.3, 0.4]):
        ladder.arrive(trial, 1, value)
    kept = [ladder.judge(trial, 1).action for trial in range(4)]
    assert kept == ["stop", "stop", "continue", "continue"]  # ceil(4 / 3)
    assert ladder.promotable(1) is None, "nobody waits"
    for trial in (0, 3, 1):
        ladder.wait(trial, 1)
    best = ladder.promotable(1)
    assert best is not None and (best.trial, best.bracket) == (3, 2)  # floor(4 / 3)
    assert (ladder.promotable(1, 3), ladder.promotable(1, 2)) == (best, None)
    ladder.wait_no_more(3, 1)
    assert ladder.promotable(1) is None, "each goes on once"
    assert (ladder.last_passed(0, 2), ladder.last_passed(0, 0), ladder.last_passed(9, 5)) == (
        *(1, None, None),
    )


@settings(max_examples=100, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 12), _VALUES), min_size=1, max_size=60),
    factor=st.integers(2, 4),
    competitors=st.integers(1, 4),
)
def test_ranks_and_cutoffs_are_those_of_a_count_of_all_values(
    arrivals: list[tuple[int, float]], factor: int, competitors: int
) -> None:
    ladder = Ladder([1], eta=factor, min_competitors=competitors, bracket=0)
    values: dict[int, float] = {}
    for trial, value in arrivals:
        ladder.arrive(trial, 1, value)  # again, where it has gone on from an older checkpoint
        values[trial] = value
        best = sorted(values.values(), reverse=True)
        rank = 1 + sum(other > value for other in values.values())
        judged, held = ladder.judge(trial, 1), ladder.hold(trial, 1)
        assert (judged.rank, held.rank) == (rank, rank)
        if len(values) <= competitors:
            assert (judged.cutoff, judged.action) == (None, "continue")
        else:
            assert judged.cutoff == best[-(-len(values) // factor) - 1]
            assert (judged.action == "continue") == (value >= judged.cutoff)
        if len(values) > competitors and len(values) >= factor:
            assert held.cutoff == best[len(values) // factor - 1]
        else:
            assert held.cutoff is None
