"""A configuration is checked, spelled one way, and refused with the reason."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config import Configuration, NetworkConfig, TrainingConfig


def network(**values: Any) -> NetworkConfig:
    return NetworkConfig(**({"filters": (8, 16)} | values))


def training(**values: Any) -> TrainingConfig:
    return TrainingConfig(**({"epochs": 3, "learning_rate": 0.1} | values))


def test_one_value_serves_every_block() -> None:
    config = network(filters=(8, 16, 32), kernel_sizes=(5,), block_dropouts=(0.1,))
    assert config.kernel_sizes == (5, 5, 5)
    assert config.block_dropouts == (0.1, 0.1, 0.1)


def test_two_spellings_of_one_configuration_are_equal_and_share_a_key() -> None:
    plain = Configuration(network=network(), training=training(weight_decay=0))
    spelled = Configuration(
        network=network(filters=[8, 16], kernel_sizes=[3, 3], block_dropouts=(0,), dropout=-0.0),
        training=training(weight_decay=0.0),
    )
    assert plain == spelled
    assert plain.key() == spelled.key()


def test_any_changed_setting_changes_the_key() -> None:
    keys = {
        Configuration(network=n, training=t).key()
        for n in (network(), network(dropout=0.1), network(residual=True, convs_per_block=2))
        for t in (training(), training(epochs=4), training(flip=True))
    }
    assert len(keys) == 9


def test_the_dictionary_survives_json_and_builds_the_same_configuration() -> None:
    config = Configuration(
        network=network(kernel_sizes=(3, 5), head="average", dense_width=32),
        training=training(optimizer="adamw", schedule="cosine", erase=0.25),
    )
    values = json.loads(json.dumps(config.to_dict()))
    assert Configuration.from_dict(values) == config
    # Every default is written out, so that a record stays true when a default changes.
    assert values["training"]["momentum"] == 0.9
    assert values["network"]["kernel_sizes"] == [3, 5]


def test_a_record_from_before_a_setting_existed_is_that_of_the_same_configuration_today() -> None:
    later = {"squeeze", "block_dropout_kind", "alternate", "ema"}
    plain = Configuration(network=network(), training=training())
    assert not later & (plain.to_dict()["network"].keys() | plain.to_dict()["training"].keys())
    every = plain.settings()
    assert later <= every["network"].keys() | every["training"].keys()
    assert Configuration.from_dict(every) == Configuration.from_dict(plain.to_dict()) == plain
    # Recorded by the version before them: `Configuration(...).key()` of these two settings.
    before = Configuration(
        network=NetworkConfig(filters=(16,)), training=TrainingConfig(epochs=3, learning_rate=0.1)
    )
    assert before.key() == "5095f8eaa8bbdf99e174e81a6b49719b79646abf8ab6838ced2043c4a7a0fa85"
    changed = Configuration(network=network(squeeze=True), training=training(ema=0.5))
    assert changed.to_dict()["network"]["squeeze"] is True
    assert changed.to_dict()["training"]["ema"] == 0.5
    assert Configuration.from_dict(changed.to_dict()) == changed
    assert len({c.key() for c in (plain, changed)}) == 2


def test_a_form_of_flip_without_flip_is_none() -> None:
    assert training(alternate=True) == training()
    assert training(alternate=True, flip=True) != training(flip=True)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("network", {"filters": [8], "filter": 3}, "network has no setting 'filter': .*'filters'"),
        (
            "training",
            {"epochs": 1, "learning_rate": 1, "bach_size": 2},
            "did you mean 'batch_size'",
        ),
        ("network", {"kernel_sizes": [3]}, "network lacks 'filters'"),
        ("training", {"epochs": 1}, "training lacks 'learning_rate'"),
        ("training", "fast", "training is 'fast', but must be a mapping"),
    ],
)
def test_an_unknown_or_missing_setting_is_named(part: str, values: Any, message: str) -> None:
    good = Configuration(network=network(), training=training()).to_dict()
    with pytest.raises(ValueError, match=message):
        Configuration.from_dict(good | {part: values})


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ValueError, match="configuration lacks 'training'"):
        Configuration.from_dict({"network": {"filters": [8]}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filters": ()}, "filters names 0 blocks, but a network has 1 to 8"),
        ({"filters": (8, 0)}, "filters of block 2 is 0, but must be a whole number from 1 to 4096"),
        ({"filters": (8, True)}, "filters of block 2 is True"),
        ({"filters": 8}, "filters is 8, but must be a list"),
        ({"kernel_sizes": (3, 5, 3)}, "kernel_sizes has 3 values for 2 blocks"),
        ({"kernel_sizes": (3, 12)}, "kernel size of block 2 is 12, .* from 1 to 11"),
        ({"kernel_sizes": (4, 3)}, "kernel size of block 1 is 4, .* odd size or padding 'valid'"),
        ({"block_dropouts": (0.0, 1.0)}, "dropout of block 2 is 1.0, but must be below 1"),
        ({"dropout": float("nan")}, "dropout is nan, but must be a number from 0 to 1"),
        ({"convs_per_block": 3}, "convs_per_block is 3, .* from 1 to 2"),
        (
            {"residual": True},
            "residual is true with convs_per_block 1, .* set convs_per_block to 2",
        ),
        ({"residual": True, "convs_per_block": 2, "padding": "valid"}, "set padding to 'same'"),
        ({"batch_norm": 1}, "batch_norm is 1, but must be true or false"),
        ({"pooling": "min"}, "pooling is 'min', but must be one of max, avg, stride"),
        ({"squeeze": 1}, "squeeze is 1, but must be true or false"),
        ({"block_dropout_kind": "row"}, "block_dropout_kind is 'row', .* element, channel"),
        ({"dense_width": -1}, "dense_width is -1"),
    ],
)
def test_a_bad_network_is_refused_with_the_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        network(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0, but must be a whole number from 1"),
        ({"epochs": 2.0}, "epochs is 2.0, but must be a whole number"),
        ({"learning_rate": 0}, "learning_rate is 0, .* give a positive one"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3', but must be a number"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam', but must be one of sgd, adamw, muon"),
        ({"ema": 1.0}, "ema is 1.0, but must be below 1"),
        ({"alternate": "yes"}, "alternate is 'yes'"),
        ({"momentum": 1.0}, "momentum is 1.0, but must be below 1"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, but must be below 1"),
        ({"shift": 65}, "shift is 65, .* from 0 to 64"),
        ({"erase": 1.5}, "erase is 1.5, but must be a number from 0 to 1"),
        ({"flip": "yes"}, "flip is 'yes'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**values)


def test_a_configuration_is_checked_without_torch() -> None:
    code = (
        "import sys; from data.images import ImageShape; from model.config import NetworkConfig; "
        "from model.geometry import check_fits; "
        "check_fits(NetworkConfig(filters=(8,)), "
        "ImageShape(channels=1, height=28, width=28, num_classes=10)); "
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=30)
