"""Where a configuration lies in a space: the way back from values to a configuration."""

from __future__ import annotations

import random
from typing import Any

import pytest

from model.config import Configuration
from search.config.axis import Placed
from search.config.config_file import load_config, preset_names
from search.config.locate import Outside, locate
from search.config.space import Space

SPACE: dict[str, Any] = {
    "num_blocks": {"int": [1, 3]},
    "filters": {"choice": [8, 16, 32], "per_block": True},
    "dropout": {"float": [0.0, 0.4], "step": 0.1},
    "optimizer": {"choice": ["sgd", "adamw"]},
    "momentum": {"float": [0.8, 0.99], "when": {"optimizer": "sgd"}},
    "learning_rate": {"float": [0.01, 0.4], "log": True},
    "label_smoothing": {"choice": [0, 0.1]},
    "shift": {"int": [0, 4], "step": 2},
}


def _space(**changes: Any) -> Space:
    return Space.parse(SPACE | changes, epochs=9)


def _made(space: Space, **values: Any) -> Configuration:
    drawn = space.suggest(Placed.at_random(random.Random(3), fixed=values))
    return space.configuration(drawn)


@pytest.mark.parametrize("preset", preset_names())
def test_every_draw_of_a_preset_is_found_where_it_was_drawn(preset: str) -> None:
    config = load_config(preset=preset)
    space, rng = config.search_space(), random.Random(0)
    for _ in range(60):
        values = space.suggest(Placed.at_random(rng))
        try:
            configuration = space.configuration(values)
        except ValueError:
            continue  # no network
        assert locate(space, configuration) == values


def test_a_parameter_that_does_not_exist_in_a_trial_is_not_asked_for() -> None:
    space = _space()
    found = locate(space, _made(space, optimizer="adamw", num_blocks=2))
    assert "momentum" not in found and "filters_3" not in found
    assert found["num_blocks"] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"learning_rate": {"float": [0.01, 0.1], "log": True}},
            "learning_rate is from 0.01 to 0.1",
        ),
        ({"filters": {"choice": [8, 16], "per_block": True}}, "filters_1 is 8 or 16 here"),
        ({"num_blocks": 1}, "filters is 32 here"),
        ({"dropout": 0.0}, "dropout is 0.0 here"),
        ({"dropout": {"float": [0.05, 0.45], "step": 0.1}}, "dropout is from 0.05 to 0.45"),
        ({"shift": {"int": [1, 3], "step": 2}}, "shift is from 1 to 3"),
        ({"optimizer": {"choice": ["adamw"]}, "momentum": 0.9}, "optimizer is adamw here"),
    ],
)
def test_what_lies_outside_is_refused_and_why(changes: dict[str, Any], said: str) -> None:
    values = {"learning_rate": 0.3, "dropout": 0.2, "shift": 2, "optimizer": "sgd"}
    blocks = {"num_blocks": 2, "filters_1": 32, "filters_2": 32}
    with pytest.raises(Outside, match=said):
        locate(_space(**changes), _made(_space(), **values, **blocks))


def test_another_length_of_training_is_another_trial() -> None:
    longer = Space.parse(SPACE, epochs=27)
    with pytest.raises(Outside, match="trained for 9 epochs, not 27"):
        locate(longer, _made(_space()))


def test_a_key_that_did_nothing_may_have_had_any_value_where_it_is_fixed_now() -> None:
    fixed = _space(dropout=0.1, filters=16)
    trial = _made(_space(), dropout=0.3, filters_1=8, filters_2=32, num_blocks=2)
    found = locate(fixed, trial, projected={"dropout", "filters"})
    assert "dropout" not in found and found["num_blocks"] == 2
    with pytest.raises(Outside, match="filters is 16 here"):
        locate(fixed, trial, projected={"dropout"})
    # Searched still, its value has to be one of the space.
    with pytest.raises(Outside, match=r"dropout is from 0 to 0\.2"):
        narrow = _space(dropout={"float": [0.0, 0.2]})
        locate(narrow, trial, projected={"dropout"})


def test_a_choice_is_returned_as_the_space_writes_it() -> None:
    # 0 in the space is 0.0 in a configuration; True is no number.
    space = _space(flip={"choice": [True, False]}, filters={"choice": [1, 8], "per_block": True})
    found = locate(space, _made(space, label_smoothing=0, flip=True, filters_1=1))
    assert repr(found["label_smoothing"]) == "0"
    assert found["flip"] is True and repr(found["filters_1"]) == "1"
