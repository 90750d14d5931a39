"""A define-by-run space as a cube: places and values, points drawn, points nearby."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution

from search.config.axis import Axis
from search.config.cube import Cube
from search.config.dimension import Suggester
from search.config.space import Space
from search.propose.inherited import distribution as distribution_of

_UNITS = st.floats(0, 1)
_NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
_POSITIVE = st.floats(1e-8, 1e6)
_KINDS = ["float", "log", "step", "int", "intlog", "intstep", "numbers", "words", "bools"]
_WORDS = st.sampled_from(["sgd", "adamw", "same", "valid", "max", "avg"])


@st.composite
def _axes(draw: st.DrawFn) -> Axis:
    """Return any axis a study file can ask for."""
    kind = draw(st.sampled_from(_KINDS))
    if kind in ("float", "log"):
        low = draw(_NUMBERS if kind == "float" else _POSITIVE)
        return Axis(low=low, high=low + draw(st.floats(0, 1e6)), log=kind == "log")
    if kind == "step":
        # As people write them: Optuna divides decimal numbers, not binary ones.
        step, low = draw(st.integers(1, 100_000)), draw(st.integers(-100_000, 100_000))
        high = low + step * draw(st.integers(0, 200))
        return Axis(low=low / 1000, high=high / 1000, step=step / 1000)
    if kind in ("int", "intlog", "intstep"):
        step = draw(st.integers(1, 64)) if kind == "intstep" else 1
        low = draw(st.integers(1 if kind == "intlog" else -1000, 1000))
        high = low + step * draw(st.integers(0, 500))
        return Axis(low=low, high=high, step=step, log=kind == "intlog", whole=True)
    if kind == "numbers":
        values = st.integers(-9, 999) | st.floats(-1, 1)
    else:
        values = _WORDS if kind == "words" else st.booleans()
    choices = draw(st.lists(values, min_size=1, max_size=6, unique=True))
    return Axis(choices=tuple(choices))


@settings(max_examples=400)
@given(axis=_axes(), unit=_UNITS)
def test_what_is_decoded_is_a_value_that_optuna_would_draw(axis: Axis, unit: float) -> None:
    value = axis.decode(unit)
    distribution = distribution_of(axis)
    assert distribution._contains(distribution.to_internal_repr(value))
    if axis.whole:
        assert type(value) is int
    elif not axis.choices:
        assert type(value) is float


@settings(max_examples=400)
@given(axis=_axes(), unit=_UNITS)
def test_encoding_is_the_inverse_of_decoding(axis: Axis, unit: float) -> None:
    value = axis.decode(unit)
    place = axis.encode(value)
    assert 0 <= place <= 1
    again = axis.decode(place)
    if axis.choices or axis.whole or axis.step:
        assert again == value
        assert type(again) is type(value)
    else:
        assert again == pytest.approx(value, rel=1e-9, abs=1e-9 * max(1, axis.high - axis.low))


@pytest.mark.parametrize(
    "axis",
    [
        Axis(low=0.0, high=1.0, step=0.1),
        Axis(low=1, high=4, whole=True, step=1),
        Axis(low=16, high=64, whole=True, step=16),
        Axis(choices=(3, 1, 2)),
        Axis(choices=("a", "b", "c")),
        Axis(choices=(False, True)),
    ],
)
def test_discrete_values_have_equal_shares_of_the_axis(axis: Axis) -> None:
    counts = Counter(axis.decode((i + 0.5) / 13200) for i in range(13200))
    assert set(counts.values()) == {13200 // len(counts)}
    assert len(counts) in (11, 4, 3, 2)


def test_numbers_lie_in_their_order_words_do_not() -> None:
    numbers = Axis(choices=(64, 16, 32))
    assert numbers.is_ordered and numbers.width == 1
    assert [numbers.decode(u) for u in (0.1, 0.5, 0.9)] == [16, 32, 64]
    assert numbers.encode(16) < numbers.encode(32) < numbers.encode(64)
    words = Axis(choices=("max", "avg", "none"))
    assert not words.is_ordered and words.width == 3
    two = Axis(choices=(False, True))  # true and false are no numbers
    assert not two.is_ordered and two.width == 1


def test_a_logarithmic_axis_spreads_the_orders_of_magnitude_evenly() -> None:
    rate = Axis(low=1e-4, high=1.0, log=True)
    assert [rate.decode(u) for u in (0, 0.25, 0.5, 1)] == pytest.approx([1e-4, 1e-3, 1e-2, 1.0])
    width = Axis(low=1, high=1024, log=True, whole=True)
    drawn = Counter(width.decode((i + 0.5) / 5000) for i in range(5000))
    few = sum(count for value, count in drawn.items() if value <= 32)
    assert 0.45 < few / 5000 < 0.62  # as Optuna: half a step beyond each end


def _any_space(suggester: Suggester) -> dict[str, Any]:
    return {
        "optimizer": suggester.suggest_categorical("optimizer", ["sgd", "adamw", "rms"]),
        "rate": suggester.suggest_float("rate", 1e-3, 1.0, log=True),
        "units": suggester.suggest_int("units", 16, 64, step=16),
    }


def test_words_stand_each_at_a_corner_equally_far_from_every_other() -> None:
    cube = Cube(_any_space)
    assert cube.width == 5
    assert list(cube.axes) == ["optimizer", "rate", "units"]
    points = [{"optimizer": word, "rate": 0.1, "units": 32} for word in ("sgd", "adamw", "rms")]
    vectors = [cube.encode(point) for point in points]
    distances = [
        np.linalg.norm(a - b) for a, b in zip(vectors, vectors[1:] + vectors[:1], strict=True)
    ]
    assert distances == pytest.approx([distances[0]] * 3)
    assert 0.9 < distances[0] < 1.1  # about as far as the ends of an axis


def test_what_a_point_lacks_stands_in_the_middle() -> None:
    cube = Cube(_any_space)
    assert cube.encode({}).tolist() == [0.5] * 5
    # What the cube does not know is left out: a baseline's values may hold more.
    assert cube.encode({"rate": 1.0, "other": 3}).tolist() == [0.5, 0.5, 0.5, 1.0, 0.5]


def test_a_point_stands_at_given_places() -> None:
    cube = Cube(_any_space)
    assert cube.at([0.0, 1.0, 0.3]) == {"optimizer": "sgd", "rate": 1.0, "units": 32}
    assert cube.at([0.99, 0.0, 0.0])["optimizer"] == "rms"
    with pytest.raises(ValueError, match="shorter"):
        cube.at([0.0, 1.0])


_DEEP: dict[str, Any] = {
    "num_blocks": {"int": [1, 4]},
    "filters": {"choice": [8, 16, 32], "per_block": True},
    "kernel_size": {"choice": [3, 5], "per_block": True},
    "block_dropout": {"float": [0.0, 0.4], "step": 0.1, "per_block": True},
    "pooling": {"choice": ["max", "avg"]},
    "dense_width": {"int": [16, 256], "log": True},
    "dropout": {"float": [0.0, 0.6]},
    "optimizer": {"choice": ["sgd", "adamw"]},
    "momentum": {"float": [0.8, 0.99], "when": {"optimizer": "sgd"}},
    "learning_rate": {"float": [0.001, 0.5], "log": True},
    "batch_size": {"int": [32, 256], "step": 32},
}
DEEP = Space.parse(_DEEP, epochs=9)
_CUBE = Cube(DEEP.suggest)
_PLACES = st.lists(_UNITS, min_size=len(_CUBE.axes), max_size=len(_CUBE.axes))


def _check_is_in_the_space(values: Mapping[str, Any]) -> None:
    DEEP.check_point(values)
    # It is whole, and holds nothing beside: asked for its values, the space gives them back.
    assert DEEP.suggest(_Answers(values)) == values
    configuration = DEEP.configuration(values)
    assert len(configuration.network.filters) == values["num_blocks"]


class _Answers:
    """Answers with the values of a point, each of which must be one that Optuna could draw."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._distributions: dict[str, BaseDistribution] = {}

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._check(name, Axis(low=low, high=high, step=step, log=log, whole=True)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._check(name, Axis(low=low, high=high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._check(name, Axis(choices=tuple(choices)))

    def _check(self, name: str, axis: Axis) -> Any:
        distribution = distribution_of(axis)
        assert distribution._contains(distribution.to_internal_repr(self._values[name]))
        return self._values[name]


def test_points_drawn_anywhere_are_points_of_the_space() -> None:
    cube, rng = Cube(DEEP.suggest), random.Random(1)
    assert set(cube.axes) == set(DEEP.parameter_names())
    drawn = [cube.anywhere(rng) for _ in range(300)]
    for values in drawn:
        _check_is_in_the_space(values)
    assert {values["num_blocks"] for values in drawn} == {1, 2, 3, 4}
    assert {"momentum" in values for values in drawn} == {True, False}


@settings(max_examples=150, deadline=None)
@given(places=_PLACES, seed=st.integers(0, 99))
def test_points_at_any_place_and_near_any_point_are_points_of_the_space(
    places: list[float], seed: int
) -> None:
    rng = random.Random(seed)
    values = _CUBE.at(places)
    _check_is_in_the_space(values)
    vector = _CUBE.encode(values)
    assert vector.shape == (_CUBE.width,) and vector.dtype == np.float64
    assert ((vector >= 0) & (vector <= 1)).all()
    spread = dict.fromkeys(_CUBE.axes, 5.0)  # far beyond the ends
    for _ in range(5):
        values = _CUBE.near(values, spread, rng)
        _check_is_in_the_space(values)


def test_near_points_keep_some_values_and_move_the_others_a_little() -> None:
    rng = random.Random(2)
    parent = _CUBE.anywhere(rng)
    while parent["num_blocks"] != 2 or parent["optimizer"] != "sgd":
        parent = _CUBE.anywhere(rng)
    spread = dict.fromkeys(_CUBE.axes, 0.02)
    children = [_CUBE.near(parent, spread, rng) for _ in range(400)]
    same = sum(
        child["learning_rate"] == pytest.approx(parent["learning_rate"]) for child in children
    )
    assert 0.3 < same / 400 < 0.5
    axis = _CUBE.axes["learning_rate"]
    moved = [axis.encode(child["learning_rate"]) for child in children]
    at = axis.encode(parent["learning_rate"])
    assert max(abs(place - at) for place in moved) < 0.12  # six standard deviations
    # Words are drawn anew: half of the moves lead to the other one.
    assert 0.2 < sum(child["optimizer"] == "adamw" for child in children) / 400 < 0.4
    assert len({str(child) for child in children}) > 300


def test_a_child_with_what_its_parent_lacks_gets_it_drawn() -> None:
    rng = random.Random(3)
    parent = _CUBE.at([0.0] * len(_CUBE.axes))
    assert parent["num_blocks"] == 1
    spread = dict.fromkeys(_CUBE.axes, 2.0)
    deeper = [c for c in (_CUBE.near(parent, spread, rng) for _ in range(200)) if "filters_3" in c]
    assert {child["filters_3"] for child in deeper} == {8, 16, 32}


def test_the_same_space_has_the_same_axes() -> None:
    assert Cube(DEEP.suggest).axes == Cube(Space.parse(_DEEP, epochs=9).suggest).axes
    first, second = random.Random(7), random.Random(7)
    assert [_CUBE.anywhere(first) for _ in range(20)] == [
        Cube(DEEP.suggest).anywhere(second) for _ in range(20)
    ]


def test_a_rare_parameter_is_always_met_or_never() -> None:
    def draw(suggester: Suggester) -> dict[str, Any]:
        values = {"n": suggester.suggest_int("n", 1, 250)}
        if values["n"] == 1:  # in about two of three explorations
            values["rare"] = suggester.suggest_int("rare", 1, 3)
        return values

    assert len({tuple(Cube(draw).axes) for _ in range(15)}) == 1


def test_a_step_is_a_share_of_the_length_scale_and_never_longer_than_of_an_axis() -> None:
    cube = Cube(_any_space)
    lengths = np.array([0.2, 9.0, 9.0, 0.5, 50.0])
    spread = cube.spread(lengths, 0.1)
    assert spread == pytest.approx({"optimizer": 0.02, "rate": 0.05, "units": 0.1})


def test_a_parameter_that_hardly_ever_exists_can_be_drawn_all_the_same() -> None:
    # 256 draws do not meet it; the one in 2,000 that does must not end the study.
    space = Space.parse(
        {
            "batch_size": {"int": [1, 2000]},
            "filters": {"choice": [4, 8]},
            "learning_rate": 0.1,
            "dropout": {"float": [0.0, 0.5], "when": {"batch_size": 17}},
        },
        epochs=9,
    )
    cube, rng = Cube(space.suggest), random.Random(0)
    assert "dropout" not in cube.axes, "the case this test is for"
    place = cube.axes["batch_size"].encode(17)
    values = cube.at([place, 0.0])
    assert values["batch_size"] == 17 and 0 <= values["dropout"] <= 0.5
    values = cube.near({"batch_size": 17, "filters": 4}, {"batch_size": 0.0, "filters": 0.0}, rng)
    assert values["batch_size"] == 17 and 0 <= values["dropout"] <= 0.5
    for _ in range(40):  # near one that has it, too
        values = cube.near(values, {"batch_size": 0.0, "filters": 0.0}, rng)
        assert values["batch_size"] == 17 and 0 <= values["dropout"] <= 0.5
    drawn = [cube.anywhere(rng) for _ in range(20_000)]
    rare = [values["dropout"] for values in drawn if values["batch_size"] == 17]
    assert rare and all(0 <= value <= 0.5 for value in rare)


def test_a_space_without_anything_to_search_is_a_single_point() -> None:
    cube = Cube(lambda suggester: {})
    assert (cube.width, cube.at([]), cube.anywhere(random.Random(0))) == (0, {}, {})
    assert cube.encode({}).shape == (0,)


@pytest.mark.parametrize("value", [1.0, 0.1 + 0.2, math.pi])
def test_an_axis_of_one_value_has_its_place_in_the_middle(value: float) -> None:
    axis = Axis(low=value, high=value)
    assert axis.encode(value) == 0.5
    assert {axis.decode(unit) for unit in (0.0, 0.3, 1.0)} == {value}
