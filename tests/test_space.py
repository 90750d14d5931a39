"""The search space: what its YAML form means, what it refuses, what Optuna is asked."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from model.config import Configuration, NetworkConfig, TrainingConfig
from search.config.space import Space

DEEP: dict[str, Any] = {
    "filters": {"choice": [8, 16], "per_block": True},
    "kernel_size": {"int": [3, 7], "step": 2, "per_block": True},
    "num_blocks": {"int": [1, 3]},
    "optimizer": {"choice": ["sgd", "adamw"]},
    "momentum": {"float": [0.8, 0.99], "when": {"optimizer": "sgd"}},
    "learning_rate": {"float": [0.001, 0.1], "log": True},
    "dropout": {"float": [0.0, 0.5], "step": 0.25},
    "padding": "same",
    "flip": True,
}
PLAIN = {"filters": 8, "learning_rate": 0.1}


def _space(**changes: Any) -> Space:
    return Space.parse(PLAIN | changes, epochs=9)


def _trials(space: Space, count: int) -> list[optuna.trial.FrozenTrial]:
    """Return what Optuna stored for `count` random draws, each of which makes a configuration."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        assert space.suggest(trial) == trial.params
        space.configuration(trial.params)
    return study.get_trials()


def test_every_block_there_is_has_parameters_and_no_other() -> None:
    seen = set()
    for trial in _trials(Space.parse(DEEP, epochs=9), 30):
        blocks = trial.params["num_blocks"]
        seen.add(blocks)
        expected = {
            f"{key}_{i}" for key in ("filters", "kernel_size") for i in range(1, blocks + 1)
        }
        assert {name for name in trial.params if name[-1].isdigit()} == expected
    assert seen == {1, 2, 3}


def test_a_parameter_with_a_condition_exists_only_where_it_holds() -> None:
    trials = _trials(Space.parse(DEEP, epochs=9), 30)
    assert {trial.params["optimizer"] for trial in trials} == {"sgd", "adamw"}
    for trial in trials:
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")


def test_a_condition_may_name_several_values_and_a_constant() -> None:
    when = {"num_blocks": [2, 3], "optimizer": "sgd"}
    space = _space(
        num_blocks={"int": [1, 3]},
        optimizer="sgd",
        momentum={"float": [0.8, 0.9], "when": when},
    )
    for trial in _trials(space, 20):
        assert ("momentum" in trial.params) == (trial.params["num_blocks"] > 1)


def test_optuna_is_asked_for_the_ranges_steps_and_scales_described() -> None:
    deepest = max(_trials(Space.parse(DEEP, epochs=9), 30), key=lambda t: len(t.params))
    assert deepest.distributions["learning_rate"] == optuna.distributions.FloatDistribution(
        0.001, 0.1, log=True
    )
    assert deepest.distributions["dropout"] == optuna.distributions.FloatDistribution(
        0.0, 0.5, step=0.25
    )
    assert deepest.distributions["kernel_size_3"] == optuna.distributions.IntDistribution(
        3, 7, step=2
    )
    assert deepest.distributions["filters_1"] == optuna.distributions.CategoricalDistribution(
        [8, 16]
    )


def test_values_and_constants_make_the_configuration_expected() -> None:
    values = {
        "num_blocks": 2,
        "filters_1": 8,
        "filters_2": 16,
        "kernel_size_1": 3,
        "kernel_size_2": 5,
        "optimizer": "sgd",
        "momentum": 0.85,
        "learning_rate": 0.05,
        "dropout": 0.25,
    }
    assert Space.parse(DEEP, epochs=9).configuration(values) == Configuration(
        network=NetworkConfig(filters=(8, 16), kernel_sizes=(3, 5), dropout=0.25, padding="same"),
        training=TrainingConfig(
            epochs=9, learning_rate=0.05, optimizer="sgd", momentum=0.85, flip=True
        ),
    )


def test_one_value_for_all_blocks_is_repeated() -> None:
    space = _space(num_blocks=3, filters={"choice": [8, 16]}, block_dropout=0.1)
    network = space.configuration({"filters": 16}).network
    assert network.filters == (16, 16, 16)
    assert network.block_dropouts == (0.1, 0.1, 0.1)
    assert space.parameter_names() == ["filters"]


def test_names_are_those_of_the_deepest_network_in_order_of_asking() -> None:
    space = Space.parse(DEEP, epochs=9)
    assert space.max_blocks() == 3
    assert space.parameter_names() == [
        "num_blocks",
        *("filters_1", "filters_2", "filters_3"),
        *("kernel_size_1", "kernel_size_2", "kernel_size_3"),
        *("optimizer", "momentum", "learning_rate", "dropout"),
    ]


def test_a_point_of_the_space_is_accepted() -> None:
    space = Space.parse(DEEP, epochs=9)
    space.check_point({})
    space.check_point({"num_blocks": 2, "filters_2": 16, "dropout": 0.25, "kernel_size_1": 7})
    space.check_point({"optimizer": "sgd", "momentum": 0.8})
    space.check_point({"filters_3": 8})  # how many blocks is for the sampler to say


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"filter_1": 8}, "no parameter `filter_1`; did you mean `filters_1`?"),
        ({"filters_4": 8}, "no parameter `filters_4`; did you mean `filters_3`?"),
        ({"padding": "same"}, "no parameter `padding`; allowed: num_blocks, filters_1,"),
        ({"filters_2": 9}, "`filters_2` is 9, but must be one of: 8, 16"),
        ({"learning_rate": 1}, "`learning_rate` is 1, but must be a number from 0.001 to 0.1"),
        ({"learning_rate": "1"}, "`learning_rate` is '1', but must be a number"),
        ({"learning_rate": math.nan}, "`learning_rate` is nan, but must be a number"),
        ({"num_blocks": 4}, "`num_blocks` is 4, but must be a whole number from 1 to 3"),
        ({"num_blocks": 2.0}, "`num_blocks` is 2.0, but must be a whole number"),
        ({"num_blocks": True}, "`num_blocks` is True, but must be a whole number"),
        # Optuna would take these with no more than a warning.
        ({"kernel_size_1": 4}, "`kernel_size_1` is 4, but must be .* 3 to 7 in steps of 2"),
        ({"dropout": 0.3}, "`dropout` is 0.3, but must be .* 0 to 0.5 in steps of 0.25"),
        # These would be left out without a word.
        (
            {"optimizer": "adamw", "momentum": 0.9},
            "`momentum` exists only where `optimizer` is sgd, but it is adamw",
        ),
        ({"num_blocks": 1, "filters_2": 8}, "`filters_2` is given for 1 blocks"),
    ],
)
def test_a_point_outside_the_space_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space.parse(DEEP, epochs=9).check_point(point)


def test_choices_are_compared_with_their_type() -> None:
    space = _space(convs_per_block=2, residual={"choice": [False, True]})
    space.check_point({"residual": True})
    with pytest.raises(ValueError, match="`residual` is 1, but must be one of: False, True"):
        space.check_point({"residual": 1})
    space = _space(label_smoothing={"choice": [0.0, 0.1]})
    space.check_point({"label_smoothing": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnig_rate": 0.1}, "space has no key `learnig_rate`; did you mean `learning_rate`?"),
        ({"kernel_sizes": 3}, "space has no key `kernel_sizes`; did you mean `kernel_size`?"),
        ({"epochs": 3}, "space has no key `epochs`"),
        ({"dropout": {"flot": [0, 1]}}, "space.dropout has no key `flot`; did you mean `float`?"),
        ({"dropout": {"log": True}}, "space.dropout needs exactly one of int, float, choice"),
        (
            {"dropout": {"float": [0, 0.5], "choice": [0]}},
            "space.dropout needs exactly one of int, float, choice",
        ),
        ({"dropout": {"float": 0.5}}, "space.dropout.float is 0.5, but must be .lowest, highest."),
        ({"dropout": {"float": [0, 0.1, 0.2]}}, "but must be .lowest, highest."),
        ({"dropout": {"float": [0, math.inf]}}, "but must be .lowest, highest."),
        ({"dropout": {"float": [False, True]}}, "but must be .lowest, highest."),
        ({"dropout": {"float": [0.5, 0.1]}}, "space.dropout.float .* the lowest must come first"),
        ({"dropout": {"float": [0, 0.5], "log": True}}, "with log both must be above 0"),
        ({"dropout": {"float": [0, 0.5], "log": "no"}}, "log is 'no', but must be true or false"),
        ({"dropout": {"float": [0, 0.5], "step": 0}}, "step is 0, but must be a number above 0"),
        ({"dropout": {"float": [0, 0.5], "step": 0.2}}, "a whole number of steps of 0.2 above"),
        (
            {"learning_rate": {"float": [0.1, 0.5], "step": 0.1, "log": True}},
            "space.learning_rate has log and step, which exclude each other",
        ),
        ({"shift": {"int": [0, 2.5]}}, "space.shift.int is .0, 2.5., but must hold whole numbers"),
        ({"shift": {"int": [0, 4], "step": 0.5}}, "step is 0.5, but must be a whole number"),
        ({"shift": {"choice": []}}, "space.shift.choice is .., but must be a list of values"),
        ({"shift": {"choice": [1, 1]}}, "space.shift.choice names a value twice"),
        ({"shift": {"choice": [[1], [2]]}}, "must hold numbers or words"),
        ({"shift": {"choice": [1, 2], "log": True}}, "log goes with int and float, not with"),
        (
            {"shift": {"choice": [1, 2], "per_block": True}},
            "space.shift cannot be per_block; only filters, kernel_size, block_dropout can",
        ),
        ({"momentum": {"float": [0, 0.9], "when": "sgd"}}, "must name keys and their values"),
        (
            {"momentum": {"float": [0, 0.9], "when": {"optimiser": "sgd"}}},
            "space.momentum.when names `optimiser`, which must be a key of the space that stands"
            " before it",
        ),
        (
            {"optimizer": "adamw", "momentum": {"float": [0, 0.9], "when": {"optimizer": "sgd"}}},
            "space.momentum.when: `optimizer` is never 'sgd', always 'adamw'",
        ),
        (
            {
                "optimizer": {"choice": ["sgd", "adamw"]},
                "momentum": {"float": [0, 0.9], "when": {"optimizer": "adam"}},
            },
            "space.momentum.when: `optimizer` is 'adam', but must be one of: sgd, adamw",
        ),
        ({"num_blocks": 0}, "space.num_blocks must be a whole number from 1 to 8"),
        ({"num_blocks": True}, "space.num_blocks must be a whole number from 1 to 8"),
        ({"num_blocks": {"int": [1, 10**9]}}, "space.num_blocks must be a whole number"),
        ({"num_blocks": {"float": [1, 2]}}, "space.num_blocks must be a whole number"),
        ({"num_blocks": {"choice": [1, "two"]}}, "space.num_blocks must be a whole number"),
    ],
)
def test_a_description_that_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _space(**changes)


def test_a_key_the_condition_needs_must_stand_before_it() -> None:
    momentum = {"float": [0, 0.9], "when": {"optimizer": "sgd"}}
    optimizer = {"choice": ["sgd", "adamw"]}
    _space(optimizer=optimizer, momentum=momentum)
    with pytest.raises(ValueError, match="must be a key of the space that stands before it"):
        _space(momentum=momentum, optimizer=optimizer)


def test_a_space_without_filters_or_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"space needs `filters`, e\.g\. "):
        Space.parse({"learning_rate": 0.1}, epochs=9)
    with pytest.raises(ValueError, match="lacks 'learning_rate', which has no default"):
        Space.parse({"filters": 8}, epochs=9)


def test_a_space_none_of_whose_draws_is_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no combination .* network; the last one: .* convs_per"):
        _space(residual=True, convs_per_block={"choice": [1]})
    # One that works now and then stays: the others are infeasible trials.
    _space(residual=True, convs_per_block={"choice": [1, 2]})
