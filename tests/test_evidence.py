"""What trials say, as the model takes it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from search.propose.evidence import curve_of, gather, trials_since_best

LEVELS = [1, 3, 9]


def test_a_curve_holds_the_best_value_by_each_level_that_was_reached() -> None:
    values = {1: 0.5, 2: 0.8, 3: 0.7, 4: 0.9, 8: 0.6}
    assert curve_of(values, LEVELS, 1.0) == {0: 0.5, 1: 0.8}
    assert curve_of(values | {9: 0.1}, LEVELS, 1.0) == {0: 0.5, 1: 0.8, 2: 0.9}
    # What comes after the last level counts at none.
    assert curve_of(values | {9: 0.1, 10: 1.0}, LEVELS, 1.0)[2] == 0.9
    assert curve_of({}, LEVELS, 1.0) == {}


def test_where_lower_is_better_the_best_is_the_lowest() -> None:
    assert curve_of({1: 0.5, 2: 0.2, 3: 0.4}, LEVELS, -1.0) == {0: -0.5, 1: -0.2}


def test_levels_before_the_first_value_hold_nothing() -> None:
    assert curve_of({9: 0.7}, LEVELS, 1.0) == {2: 0.7}
    assert curve_of({2: 0.6, 3: 0.5}, LEVELS, 1.0) == {1: 0.6}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_hold_nothing(value: float) -> None:
    assert curve_of({1: value}, LEVELS, 1.0) == {}
    assert curve_of({1: 0.5, 2: value, 3: 0.4}, LEVELS, 1.0) == {0: 0.5, 1: 0.5}
    assert curve_of({1: 0.5, 3: value}, LEVELS, -1.0) == {0: -0.5}


def _curves(count: int) -> dict[int, dict[int, float]]:
    """Return trials 10, 11, ...; the later the better."""
    return {10 + i: {0: 0.01 * i} for i in range(count)}


def test_few_trials_are_taken_as_they_are_diverged_ones_last() -> None:
    found = gather(_curves(4), [3, 5], most=10, most_untrainable=10, rng=random.Random(0))
    assert found.numbers == [10, 11, 12, 13, 3, 5]
    assert (found.level, found.untrainable) == (0, 2)
    assert found.values.shape == found.variances.shape == (6,)
    # Diverged trials are as bad as the worst of the others.
    assert found.values[4:].tolist() == [found.values.min()] * 2
    assert found.variances[4:].tolist() == [0.0, 0.0]
    assert (np.diff(found.values[:4]) > 0).all()


def test_of_many_trials_the_better_half_and_some_others_are_taken() -> None:
    found = gather(_curves(100), range(200, 220), most=10, most_untrainable=3, rng=random.Random(0))
    assert set(found.numbers[:5]) == {105, 106, 107, 108, 109}
    others = found.numbers[5:10]
    assert len(set(others)) == 5 and max(others) < 105
    assert found.numbers[10:] == [217, 218, 219], "the last ones"
    again = gather(_curves(100), [], most=10, most_untrainable=3, rng=random.Random(1))
    assert again.numbers[5:] != others, "by the dice"
    # The scale is that of all trials, taken or not.
    whole = gather(_curves(100), [], most=100, most_untrainable=3, rng=random.Random(0))
    by_number = dict(zip(whole.numbers, whole.values, strict=True))
    assert [by_number[n] for n in found.numbers[:10]] == found.values[:10].tolist()


def test_values_of_lower_levels_are_unsure() -> None:
    curves = {0: {0: 0.5, 1: 0.8}, 1: {0: 0.4}, 2: {0: 0.6, 1: 0.85}}
    found = gather(curves, [], most=10, most_untrainable=0, rng=random.Random(0))
    assert found.level == 1
    assert found.variances[0] == found.variances[2] == 0 < found.variances[1]


def test_how_long_ago_the_best_came_is_counted_in_trials() -> None:
    assert trials_since_best([0.5, 0.9, -math.inf, 0.8]) == 2
    assert trials_since_best([0.5, 0.9, -math.inf, 0.9]) == 0, "the last of equals"
    assert trials_since_best([0.5]) == 0
