"""The time left, and the words for numbers and networks."""

from __future__ import annotations

import pytest

from model.config import Configuration, NetworkConfig, TrainingConfig
from search.screen.time_left import forecast_epochs, forecast_trials
from search.words import average_words, describe_network, flip_words, likely, span


def test_forecasts_of_equal_trials_are_exact_and_of_unequal_ones_wide() -> None:
    # Two slots: one is free after 6 seconds, one at once; three more trials of 10 seconds.
    assert forecast_trials([10.0] * 5, [4.0], 3, slots=2) == (20.0, 20.0)
    assert forecast_trials([10.0] * 5, [], 1000, slots=4) == (2500.0, 2500.0)
    assert forecast_epochs([(3, 6.0), (1, 2.0)], 50) == (100.0, 100.0)
    low, high = forecast_trials([1.0, 1.0, 1.0, 1.0, 30.0], [], 20, slots=1)
    assert low < 20 * 34 / 5 < high
    many = forecast_trials([1.0, 1.0, 1.0, 1.0, 30.0] * 20, [], 20, slots=1)
    assert many[1] - many[0] < high - low


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.7, "1 min"), (190, "3 min 10 s"), (3599.6, "1 h"), (7380, "2 h 3 min")],
)
def test_spans_have_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_ranges_are_rounded_outwards_as_coarsely_as_they_are_wide() -> None:
    assert likely(42.0, 42.2) == "42 s"
    assert likely(119.0, 239.0) == "likely 1 min 30 s to 4 min"


def test_networks_are_told_in_a_few_words() -> None:
    network = NetworkConfig(
        filters=(16, 32), kernel_sizes=(3, 5), convs_per_block=2, residual=True, head="average",
        block_dropouts=(0.1,), dropout=0.25,
    )  # fmt: skip
    training = TrainingConfig(epochs=1, learning_rate=0.1)
    words = describe_network(Configuration(network=network, training=training).to_dict())
    assert words == "16-32 k3-5 x2 residual bn average block-drop 0.1 drop 0.25"


def test_what_newer_versions_can_is_told_and_records_of_older_ones_are_read() -> None:
    network = NetworkConfig(
        filters=(16,), pooling="stride", squeeze=True, block_dropouts=(0.1,),
        block_dropout_kind="channel",
    )  # fmt: skip
    training = TrainingConfig(
        epochs=1, learning_rate=0.1, flip=True, alternate=True, optimizer="muon", ema=0.99
    )
    told = Configuration(network=network, training=training).to_dict()
    assert describe_network(told) == "16 k3 bn strided squeeze channel-drop 0.1"
    assert flip_words(told["training"]) == ["alternating flip"]
    assert average_words(told["training"]) == ["weights averaged 0.99"]
    for part, settings in {
        "network": ("squeeze", "block_dropout_kind"),
        "training": ("alternate", "ema"),
    }.items():
        for setting in settings:
            del told[part][setting]
    assert describe_network(told) == "16 k3 bn strided block-drop 0.1"
    assert flip_words(told["training"]) == ["flip"]
    assert average_words(told["training"]) == []
