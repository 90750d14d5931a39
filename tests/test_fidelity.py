"""Values from different rungs brought to one scale."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.propose.fidelity import Scaled, compress_lower_half, to_one_scale


def test_two_levels_by_hand() -> None:
    # Four trials were seen at level 0, three of them at level 1, where all are better by 0.2 and
    # twice as far apart.
    curves = [{0: 0.5, 1: 0.7}, {0: 0.6, 1: 0.9}, {0: 0.7, 1: 1.1}, {0: 0.4}]
    scaled = to_one_scale(curves)
    assert scaled.level == 1
    assert scaled.values[:3].tolist() == [0.7, 0.9, 1.1]
    assert scaled.variances[:3].tolist() == [0.0, 0.0, 0.0]
    # Around the middle (0.6, 0.9) the pairs are (-0.1, -0.2), (0, 0), (0.1, 0.2): before . after is
    # 0.04, before . before 0.02. The spread of level 0 is that of 0.4, 0.5, 0.6, 0.7.
    spread = math.sqrt(0.0125)
    prior = 3 * (0.3 * spread) ** 2
    slope = (0.04 + prior) / (0.02 + prior)
    assert scaled.values[3] == pytest.approx(0.9 + slope * (0.4 - 0.6))
    rest = 2 * (0.2 - slope * 0.1) ** 2
    variance = (rest + 2 * (0.3 * spread) ** 2) / 5
    assert scaled.variances[3] == pytest.approx(variance)


def test_a_change_is_applied_level_by_level() -> None:
    curves = [{0: 0.1 * i, 1: 0.1 * i + 0.5, 2: 0.1 * i + 0.6} for i in range(8)]
    scaled = to_one_scale([*curves, {0: 0.35}, {0: 0.35, 1: 0.85}])
    assert scaled.level == 2
    assert scaled.values[8:] == pytest.approx([0.95, 0.95], abs=0.01)
    # A value that comes from further below says less.
    assert scaled.variances[8] > scaled.variances[9] > 0


def test_where_all_stand_at_one_level_nothing_changes() -> None:
    scaled = to_one_scale([{0: 0.3}, {0: 0.5}, {0: 0.4}])
    assert (scaled.level, scaled.values.tolist()) == (0, [0.3, 0.5, 0.4])
    assert scaled.variances.tolist() == [0.0, 0.0, 0.0]
    assert to_one_scale([{0: 0.3}]).values.tolist() == [0.3]


def test_a_level_that_one_has_reached_lifts_the_others_by_what_it_gained() -> None:
    scaled = to_one_scale([{0: 0.5, 1: 0.8}, {0: 0.4}, {0: 0.6}])
    assert scaled.values == pytest.approx([0.8, 0.7, 0.9])
    assert scaled.variances[0] == 0 and (scaled.variances[1:] > 0).all()


def test_levels_that_disagree_say_little() -> None:
    rng = np.random.default_rng(0)
    low = rng.random(30)
    alike = [{0: a, 1: a} for a in low]
    unlike = [{0: a, 1: b} for a, b in zip(low, rng.random(30), strict=True)]
    ghost = {0: 0.9}
    clear, vague = to_one_scale([*alike, ghost]), to_one_scale([*unlike, ghost])
    assert vague.variances[-1] > 5 * clear.variances[-1]
    # And the good low value is drawn back to the middle.
    assert clear.values[-1] == pytest.approx(0.9, abs=0.01)
    assert abs(vague.values[-1] - 0.5) < 0.25


def test_one_value_beyond_all_measure_does_not_move_the_others() -> None:
    # Losses, negated: this one failed to learn at all.
    curves = [{0: -1.0 - 0.1 * i, 1: -0.5 - 0.1 * i} for i in range(6)] + [{0: -1.2}, {0: -1.4}]
    plain = to_one_scale([*curves, {0: -3.0}])
    wild = to_one_scale([*curves, {0: -1e16}])
    assert np.isfinite(wild.values).all() and np.isfinite(wild.variances).all()
    np.testing.assert_allclose(wild.values[:8], plain.values[:8], atol=0.05)
    np.testing.assert_allclose(wild.variances[:8], plain.variances[:8], atol=0.01)
    assert wild.values[8] == wild.values.min() > -5


_CURVES = st.lists(
    st.lists(st.floats(-1, 1), min_size=1, max_size=4).map(lambda vs: dict(enumerate(vs))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(curves=_CURVES, seed=st.integers(0, 99))
def test_the_order_of_the_trials_does_not_matter(curves: list[dict[int, float]], seed: int) -> None:
    order = random.Random(seed).sample(range(len(curves)), len(curves))
    scaled, mixed = to_one_scale(curves), to_one_scale([curves[i] for i in order])
    np.testing.assert_allclose(mixed.values, scaled.values[order], atol=1e-9)
    np.testing.assert_allclose(mixed.variances, scaled.variances[order], atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(curves=_CURVES)
def test_the_top_is_left_as_it_is_and_lower_levels_are_less_sure(
    curves: list[dict[int, float]],
) -> None:
    scaled = to_one_scale(curves)
    assert scaled.level == max(max(curve) for curve in curves)
    by_level: dict[int, set[float]] = {}
    for curve, value, variance in zip(curves, scaled.values, scaled.variances, strict=True):
        if max(curve) == scaled.level:
            # Unless it is so bad that how bad does not matter.
            assert variance == 0 and value >= curve[scaled.level]
        by_level.setdefault(max(curve), set()).add(float(variance))
    assert all(len(variances) == 1 for variances in by_level.values())
    falling = [next(iter(by_level[level])) for level in sorted(by_level)]
    assert falling == sorted(falling, reverse=True)


@settings(max_examples=100, deadline=None)
@given(curves=_CURVES, factor=st.floats(0.5, 20.0), shift=st.floats(-10, 10))
def test_another_unit_gives_the_same_values_in_that_unit(
    curves: list[dict[int, float]], factor: float, shift: float
) -> None:
    # Values that differ by less than rounding have no unit.
    curves = [{level: round(v, 3) for level, v in curve.items()} for curve in curves]
    other = [{level: factor * v + shift for level, v in curve.items()} for curve in curves]
    scaled, changed = to_one_scale(curves), to_one_scale(other)
    np.testing.assert_allclose(changed.values, factor * scaled.values + shift, atol=1e-6)
    np.testing.assert_allclose(changed.variances, factor**2 * scaled.variances, atol=1e-6)


def _scaled(values: list[float]) -> Scaled:
    return Scaled(level=0, values=np.array(values), variances=np.full(len(values), 0.01))


def test_the_better_half_is_left_and_the_other_drawn_towards_the_middle() -> None:
    scaled = _scaled([0.9, 0.8, 0.7, 0.5, -9.0])
    compressed = compress_lower_half(scaled)
    assert compressed.values[:3].tolist() == [0.9, 0.8, 0.7]
    # Around the median 0.7 the better half is 0, 0.1, 0.2: their root mean square is the unit.
    unit = math.sqrt(0.05 / 3)
    depths = np.array([0.2, 9.7]) / unit
    assert compressed.values[3:] == pytest.approx(0.7 - unit * np.log1p(depths))
    assert compressed.variances[:3].tolist() == [0.01] * 3
    assert compressed.variances[3:] == pytest.approx(0.01 / (1 + depths) ** 2)
    assert compressed.level == 0


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=20, unique=True))
def test_compressing_keeps_the_order_and_every_value_finite(values: list[int]) -> None:
    compressed = compress_lower_half(_scaled([float(value) for value in values]))
    assert np.argsort(compressed.values).tolist() == np.argsort(values).tolist()
    assert np.isfinite(compressed.variances).all()


def test_equal_values_stay_equal_under_compression() -> None:
    compressed = compress_lower_half(_scaled([0.5, 0.5, 0.5]))
    assert compressed.values.tolist() == [0.5] * 3
    assert compressed.variances.tolist() == [0.01] * 3
