"""PASHA: the ceiling rises only while rankings change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.prune.asha import Asha, AshaRules
from search.prune.ladder import Decision
from search.prune.pasha import Pasha


def _note(pasha: Pasha, trial: int, values: dict[int, float]) -> None:
    for epoch, value in values.items():
        pasha.note(trial, epoch, value)


def test_the_ceiling_starts_at_the_second_level() -> None:
    assert Pasha([1, 3, 9, 27]).ceiling == 3
    assert Pasha([2, 9]).ceiling == 9


def test_it_stays_while_the_ranking_at_the_last_two_levels_is_the_same() -> None:
    pasha = Pasha([1, 3, 9])
    for trial in range(6):
        _note(pasha, trial, {1: 0.1 * trial, 3: 0.5 + 0.01 * trial})
    assert (pasha.ceiling, pasha.epsilon) == (3, 0.0)


def test_it_rises_when_two_have_changed_places_and_only_at_the_ceiling() -> None:
    pasha = Pasha([1, 3, 9, 27])
    _note(pasha, 0, {1: 0.5, 2: 0.5, 3: 0.6})
    _note(pasha, 1, {1: 0.4, 2: 0.65})
    assert pasha.ceiling == 3  # they have changed places, but not at a level yet
    pasha.note(1, 3, 0.7)
    assert pasha.ceiling == 9
    # The next ranking is that of 3 and of 9 epochs; they are the same.
    pasha.note(1, 9, 0.8)
    pasha.note(0, 9, 0.75)
    assert pasha.ceiling == 9
    # One that was behind is now ahead.
    _note(pasha, 2, {1: 0.3, 3: 0.5, 9: 0.77})
    assert pasha.ceiling == 27
    _note(pasha, 0, {27: 0.9})
    _note(pasha, 1, {27: 0.85})
    assert pasha.ceiling == 27, "there is nothing above R"


def test_trials_at_one_of_the_two_levels_only_are_not_compared() -> None:
    pasha = Pasha([1, 3, 9])
    _note(pasha, 0, {1: 0.9})
    _note(pasha, 1, {1: 0.2})
    pasha.note(2, 1, 0.1)
    pasha.note(2, 3, 0.95)  # past trial 0's value, which may still change
    assert pasha.ceiling == 3


def test_epsilon_is_taken_from_pairs_that_cross_twice() -> None:
    pasha = Pasha([1, 4])
    # Ahead, behind, ahead: differences 0.02, 0.05, 0.01, 0.03.
    _note(pasha, 0, {1: 0.50, 2: 0.55, 3: 0.61, 4: 0.66})
    _note(pasha, 1, {1: 0.48, 2: 0.60, 3: 0.60, 4: 0.63})
    assert pasha.epsilon == pytest.approx(0.05)
    # Overtaken once is a change of places, not noise.
    _note(pasha, 2, {1: 0.10, 2: 0.20, 3: 0.68, 4: 0.69})
    assert pasha.epsilon == pytest.approx(0.05)
    # Not at the ceiling yet: it says nothing.
    _note(pasha, 3, {1: 0.51, 2: 0.54, 3: 0.62})
    assert pasha.epsilon == pytest.approx(0.05)
    # Two more pairs: 3 with 0 (0.01, 0.01, 0.01, 0.10) and with 1 (0.03, 0.06, 0.02, 0.07).
    pasha.note(3, 4, 0.56)
    # The 90th of 100 parts of the way through 0.05, 0.07, 0.10.
    assert pasha.epsilon == pytest.approx(0.07 + 0.8 * 0.03)


def test_equal_values_are_no_crossing() -> None:
    pasha = Pasha([1, 4, 16])
    _note(pasha, 0, {1: 0.5, 2: 0.5, 3: 0.6, 4: 0.7})
    _note(pasha, 1, {1: 0.4, 2: 0.5, 3: 0.5, 4: 0.7})
    assert pasha.epsilon == 0.0


def test_a_change_within_epsilon_is_none() -> None:
    def grown(third: float) -> int:
        pasha = Pasha([1, 4, 16])
        # These two are as good as each other to within 0.05.
        _note(pasha, 0, {1: 0.50, 2: 0.55, 3: 0.61, 4: 0.66})
        _note(pasha, 1, {1: 0.48, 2: 0.60, 3: 0.60, 4: 0.63})
        # The third was behind both, and is ahead of the second now.
        _note(pasha, 2, {1: 0.10, 2: 0.20, 3: 0.30, 4: third})
        return pasha.ceiling

    assert grown(0.64) == 4
    assert grown(0.67) == 4  # ahead of both, by less than 0.05
    assert grown(0.70) == 16  # ahead of the second by 0.07


@settings(max_examples=100, deadline=None)
@given(curves=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_without_noise_it_grows_exactly_with_a_change_of_rank(
    curves: list[tuple[float, float]],
) -> None:
    # Two epochs in all: no pair can cross twice, so epsilon is 0.
    pasha = Pasha([1, 2, 4])
    for trial, (first, second) in enumerate(curves):
        before = pasha.ceiling
        pasha.note(trial, 1, first)
        if before != 2:
            return
        pasha.note(trial, 2, second)
        seen = curves[: trial + 1]
        # Who stood at each place before is worth as much as who stands there now.
        order = sorted(seen, key=lambda curve: -curve[0])
        stable = [c[1] for c in order] == sorted((c[1] for c in seen), reverse=True)
        assert (pasha.ceiling == 2) == stable


def _growing(**changes: Any) -> Asha:
    values: dict[str, Any] = {"grace_epochs": 1, "reduction_factor": 2, "max_epochs": 8}
    values |= {"min_competitors": 1, "form": "promotion", "grow": True}
    return Asha(AshaRules(**(values | changes)))


def _train(asha: Asha, trial: int, curve: dict[int, float]) -> list[Decision | None]:
    return [asha.decide(trial, epoch, value) for epoch, value in curve.items()]


def test_trials_wait_at_the_ceiling_until_it_rises() -> None:
    asha = _growing()
    assert _train(asha, 0, {1: 0.5})[-1] is not None
    _train(asha, 1, {1: 0.4})
    promotion = asha.next_promotion()
    assert promotion is not None and promotion.trial == 0
    asha.promote(0)
    _train(asha, 0, {2: 0.52})
    for trial, value in ((2, 0.6), (3, 0.7)):
        first, second = _train(asha, trial, {1: value, 2: value + 0.01})
        assert first is not None and first.action == "continue"
        assert second is not None and second.action == "pause"
        assert second.reason.endswith("; waits: no ranking has changed up to 2 epochs")
    # The best of the three at 2 epochs would go on; the ranking of 1 and 2 epochs is the same.
    assert asha.next_promotion() is None
    # Here it changes: the one that is ahead after 1 epoch is last after 2. The ceiling rises to 4.
    _, second = _train(asha, 4, {1: 0.9, 2: 0.3})
    assert second is not None and second.action == "pause"
    promotion = asha.next_promotion()
    assert promotion is not None and (promotion.trial, promotion.rung) == (3, 2)


def test_the_first_rung_is_never_the_ceiling() -> None:
    asha = _growing(max_epochs=2)  # one rung, at 1 epoch; then R
    _train(asha, 0, {1: 0.5})
    (decision,) = _train(asha, 1, {1: 0.6})
    assert decision is not None and decision.action == "continue"


@pytest.mark.parametrize("changing", [False, True])
def test_the_longest_training_is_reached_only_where_rankings_change(changing: bool) -> None:
    asha = _growing(max_epochs=27, reduction_factor=3)
    drawn = np.random.default_rng(0).random((60, 3))
    trained: dict[int, int] = {}
    while True:
        promotion = asha.next_promotion()
        if promotion is None and len(trained) == len(drawn):
            break
        trial = len(trained) if promotion is None else promotion.trial
        if promotion is not None:
            asha.promote(trial)
        while (epoch := trained.get(trial, 0) + 1) <= 27:
            trained[trial] = epoch
            value = drawn[trial, 0] + 0.001 * epoch
            if changing:  # somewhat after 3 epochs, altogether after 9
                value += 0.02 * drawn[trial, 1] * (epoch >= 3) + drawn[trial, 2] * (epoch >= 9)
            decision = asha.decide(trial, epoch, float(value))
            if decision is not None and decision.action == "pause":
                break
    assert max(trained.values()) == (27 if changing else 3)


def test_every_bracket_grows_on_its_own() -> None:
    asha = _growing(max_epochs=16, brackets=2)
    mine = {b: [t for t in range(200) if asha.bracket_of(t) == b] for b in (0, 1)}
    # The first bracket's rungs are 1, 2, 4, 8: two change places between 1 and 2 epochs.
    first, second, *_ = mine[0]
    for trial, curve in ((first, {1: 0.5, 2: 0.5}), (second, {1: 0.6, 2: 0.4})):
        for epoch, value in curve.items():
            asha.decide(trial, epoch, value)
    promotion = asha.next_promotion()
    assert promotion is not None and promotion.rung == 2
    # The second's are 2, 4, 8; its trials still wait at 4.
    for number, trial in enumerate(mine[1][:4]):
        for epoch in (1, 2, 3, 4):
            decision = asha.decide(trial, epoch, 0.1 * number + 0.01 * epoch)
            if decision is not None and decision.action == "pause":
                break
    waiting = {t: rung for t, rung in asha.paused.items() if t in mine[1]}
    assert 4 in waiting.values()
    assert 8 not in waiting.values()
