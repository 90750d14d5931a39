"""What configurations are drawn, what they cost when all slots are busy, what others would cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest

from data.images import ImageShape
from data.loader import as_tensors
from data.memory import available_memory
from data.source import DataSpec, load_train
from model.cnn import pixel_statistics
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.geometry import network_cost
from search.config.config import StudyConfig
from search.config.draws import draw_configurations
from search.machine.bench import Measured
from search.machine.needs import memory_need
from search.machine.pace import Pace
from search.machine.probe import Probed, probe
from search.machine.slots import Slots

MakeConfig = Callable[..., StudyConfig]


def configuration(*filters: int, batch_size: int = 32, **network: Any) -> Configuration:
    return Configuration(
        network=NetworkConfig(filters=filters, **network),
        training=TrainingConfig(epochs=3, learning_rate=0.1, batch_size=batch_size),
    )


def measured(config: Configuration, train: float, score: float, save: float = 0.0) -> Measured:
    return Measured(
        configuration=config,
        slot=0,
        train_per_second=train,
        score_per_second=score,
        save_seconds=save,
        checkpoint_bytes=1_000_000,
        memory_bytes=400_000_000,
        gpu_bytes=0,
        cpu_share=0.8,
    )


# Draws


def test_draws_are_seeded_and_within_the_limits(make_config: MakeConfig, shape: ImageShape) -> None:
    config = make_config(limits={"parameters": 10_000})
    draws = draw_configurations(config, shape, count=50)
    assert len(draws.drawn) == 50
    costs = [network_cost(drawn.network, shape) for drawn in draws.drawn]
    assert all(cost.parameters <= 10_000 for cost in costs)
    assert draws == draw_configurations(config, shape, count=50)
    assert draws != draw_configurations(make_config(seed=1), shape, count=50)


def test_the_share_of_refused_draws_is_that_of_the_space(
    make_config: MakeConfig, shape: ImageShape
) -> None:
    # One block of 4 or 64 filters: 7,890 and 126,090 parameters.
    space = {"filters": {"choice": [4, 64]}, "learning_rate": 0.1}
    draws = draw_configurations(
        make_config(space=space, limits={"parameters": 20_000}), shape, count=400
    )
    assert draws.refused_share == pytest.approx(0.5, abs=0.08)
    assert draws.refusal.endswith("parameters, but at most 20000 are allowed")
    assert {drawn.network.filters for drawn in draws.drawn} == {(4,)}


def test_a_space_over_its_limits_yields_nothing_and_a_reason(
    make_config: MakeConfig, shape: ImageShape
) -> None:
    draws = draw_configurations(make_config(limits={"parameters": 10}), shape, count=5)
    assert draws.drawn == ()
    assert draws.refused_share == 1
    assert "at most 10 are allowed" in draws.refusal


def test_baselines_come_first_then_points_with_what_they_leave_open_drawn(
    make_config: MakeConfig, shape: ImageShape
) -> None:
    points = [{"num_blocks": 2, "filters_1": 16, "learning_rate": 0.25}]
    config = make_config(baselines=["seed-32"], points=points)
    draws = draw_configurations(config, shape, count=3)
    assert list(draws.first) == ["seed-32", "point 1"]
    point = draws.first["point 1"]
    assert point.network.filters[0] == 16
    assert len(point.network.filters) == 2
    assert point.training.learning_rate == 0.25


def test_a_baseline_over_the_limits_is_named_and_left_out(
    make_config: MakeConfig, shape: ImageShape
) -> None:
    config = make_config(baselines=["seed-32", "seed-64"], limits={"parameters": 200_000})
    draws = draw_configurations(config, shape, count=3)
    assert list(draws.first) == ["seed-32"]
    assert "347114 parameters" in draws.refused_first["baseline seed-64"]


def test_numbers_are_drawn_on_their_own_scale(make_config: MakeConfig, shape: ImageShape) -> None:
    space = {
        "filters": {"choice": [4]},
        "dense_width": {"int": [1, 1024], "log": True},
        "learning_rate": {"float": [0.001, 1.0], "log": True},
        "dropout": {"float": [0.0, 0.4], "step": 0.2},
        "batch_size": {"int": [32, 128], "step": 32},
        "momentum": {"float": [0.5, 0.9]},
    }
    drawn = draw_configurations(make_config(space=space), shape, count=400).drawn
    rates = [math.log10(d.training.learning_rate) for d in drawn]
    widths = [math.log2(d.network.dense_width) for d in drawn]
    assert mean(rates) == pytest.approx(-1.5, abs=0.15)
    assert mean(widths) == pytest.approx(4.5, abs=0.3)  # of 2^-1 to 2^10: 1 begins at 0.5
    assert {round(d.network.dropout, 6) for d in drawn} == {0.0, 0.2, 0.4}
    assert {d.training.batch_size for d in drawn} == {32, 64, 96, 128}
    assert mean(d.training.momentum for d in drawn) == pytest.approx(0.7, abs=0.02)


# Pace


@pytest.fixture
def family() -> list[Configuration]:
    dice = np.random.default_rng(0)
    return [
        configuration(
            *map(int, dice.choice([4, 8, 16, 32, 64], dice.integers(1, 4))),
            convs_per_block=int(dice.integers(1, 3)),
            dropout=float(dice.choice([0.0, 0.3])),
            batch_size=int(dice.choice([32, 128])),
        )
        for _ in range(30)
    ]


def pace_of(probed: list[Measured], shape: ImageShape) -> Pace:
    return Pace(probed, shape, train_images=1000, validation_images=100)


def seconds_an_image(config: Configuration, shape: ImageShape) -> float:
    cost = network_cost(config.network, shape)
    return 1e-10 * cost.multiply_adds + 1e-3 / config.training.batch_size


def test_seconds_that_follow_the_work_are_predicted_for_other_networks(
    family: list[Configuration], shape: ImageShape
) -> None:
    probed = [
        measured(c, 1 / seconds_an_image(c, shape), 3 / seconds_an_image(c, shape))
        for c in family[:20]
    ]
    pace = pace_of(probed, shape)
    others = [other for other in family[20:] if other not in family[:20]]
    assert len(others) > 5
    for other in others:
        predicted = pace.epoch(other)
        batch = other.training.batch_size
        trained = 1000 // batch * batch  # the last, smaller batch is dropped
        exact = seconds_an_image(other, shape) * (trained + 100 / 3)
        assert predicted.trial == pytest.approx(exact, rel=0.02)
        assert not predicted.measured
    assert pace.spread < 0.05


def test_a_measured_configuration_has_its_own_seconds(
    family: list[Configuration], shape: ImageShape
) -> None:
    probed = [measured(c, 100.0 * (i + 1), 500.0, save=0.25) for i, c in enumerate(family[:5])]
    seconds = pace_of(probed, shape).epoch(probed[2].configuration)
    batch = probed[2].configuration.training.batch_size
    assert seconds.measured
    assert seconds.trial == pytest.approx(1000 // batch * batch / 300 + 100 / 500 + 0.25)
    assert seconds.full == pytest.approx(1100 // batch * batch / 300)


def test_the_spread_is_that_of_the_measurements(
    family: list[Configuration], shape: ImageShape
) -> None:
    dice = np.random.default_rng(1)
    noise = np.exp(dice.normal(0, 0.2, len(family)))
    probed = [
        measured(c, float(n) / seconds_an_image(c, shape), 1000.0)
        for c, n in zip(family, noise, strict=True)
    ]
    assert pace_of(probed, shape).spread == pytest.approx(0.2, rel=0.35)


def test_muon_is_predicted_to_cost_what_its_products_do(
    family: list[Configuration], shape: ImageShape
) -> None:
    def seconds(config: Configuration) -> float:
        # One 3x3 convolution of one channel: a matrix of 9 columns, and five iterations.
        rows = config.network.filters[0]
        short, long = min(rows, 9), max(rows, 9)
        muon = 1e-7 * 5 * (2 * short * short * long + short**3)
        of_step = muon if config.training.optimizer == "muon" else 0.0
        return seconds_an_image(config, shape) + of_step / config.training.batch_size

    both = [
        replace(config, training=replace(config.training, optimizer=optimizer))
        for config in (configuration(f) for f in (4, 6, 8, 16, 24, 48, 64))
        for optimizer in ("sgd", "muon")
    ]
    *probed, sgd, muon = both
    pace = pace_of([measured(c, 1 / seconds(c), 1000.0) for c in probed], shape)
    for unseen in (sgd, muon):
        exact = seconds(unseen) * (1000 // 32 * 32) + 100 / 1000
        assert pace.epoch(unseen).trial == pytest.approx(exact, rel=0.02)
    assert pace.epoch(muon).trial > 1.3 * pace.epoch(sgd).trial


def test_a_wider_network_is_never_predicted_to_be_faster(
    family: list[Configuration], shape: ImageShape
) -> None:
    dice = np.random.default_rng(2)  # measurements without any sense
    probed = [measured(c, float(dice.uniform(100, 9000)), 1000.0) for c in family[:12]]
    pace = pace_of(probed, shape)
    seconds = [pace.epoch(configuration(width, 16)).trial for width in (2, 12, 24, 48, 96)]
    assert seconds == sorted(seconds)


def test_few_measurements_leave_a_wide_spread(shape: ImageShape) -> None:
    pace = pace_of([measured(configuration(8), 1000, 3000)], shape)
    assert pace.spread == pytest.approx(0.3)
    assert pace.epoch(configuration(64)).trial > pace.epoch(configuration(8)).trial


# Memory and disk


def test_memory_counts_every_slot_and_the_images_once_or_once_a_retraining_process() -> None:
    images = load_train(DataSpec(source="synthetic", synthetic_train=200, synthetic_test=20))
    data = images.images.nbytes + images.labels.nbytes
    probed = [measured(configuration(8), 1, 1), measured(configuration(16), 1, 1)]
    need = memory_need(Slots(count=3, threads=1, gpus=0.0), probed, images)
    assert need.parts["shared images"] == data
    assert need.parts["3 x trial"] == 3 * (400_000_000 + (150 << 20))
    assert need.total == sum(need.parts.values())
    assert need.suffices == (need.total <= need.available)
    # Where the images are large, the retraining takes more: each process holds them.
    large = replace(images, images=np.zeros((200, 1, 2000, 2000), np.uint8))
    need = memory_need(Slots(count=3, threads=1, gpus=0.0), probed, large)
    assert need.parts["3 x race"] > 3 * (400_000_000 + 2 * 800_000_000)


def test_a_container_leaves_less_memory_than_the_machine(tmp_path: Path) -> None:
    machine = available_memory(tmp_path / "none")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\nactive_file 1\n")
    assert available_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory(tmp_path) == 1_000_000 - 700_000 + 100_000


# The probe itself


@pytest.fixture(scope="module")
def images() -> Any:
    return load_train(DataSpec(source="synthetic", synthetic_train=600, synthetic_test=20))


def run_probe(
    configurations: list[Configuration], images: Any, folder: Path, seconds: float
) -> Probed:
    return probe(
        configurations,
        images,
        pixel_statistics(as_tensors(images, "cpu")[0]),
        Slots(count=2, threads=1, gpus=0.0),
        seconds=seconds,
        folder=folder,
    )


@pytest.mark.slow
def test_every_configuration_is_measured_once_by_some_slot_and_a_bad_one_is_told(
    images: Any, tmp_path: Path
) -> None:
    small, large = configuration(2), configuration(32, 32, convs_per_block=2)
    bad = configuration(4, 4, 4, 4, 4)  # five poolings: more than 28 pixels hold
    probed = run_probe([large, bad, small], images, tmp_path, 1.5)
    by_key = {m.configuration.key(): m for m in probed.measured}
    assert set(by_key) == {small.key(), large.key()}
    ((failed, reason),) = probed.failures
    assert failed == bad
    assert "too small for 2x2 pooling" in reason
    one, other = by_key[small.key()], by_key[large.key()]
    assert one.train_per_second > other.train_per_second > 0
    assert one.score_per_second > other.score_per_second > other.train_per_second
    parameters = network_cost(large.network, images.shape).parameters
    assert other.checkpoint_bytes > 2 * 4 * parameters  # weights and momentum
    assert 50 << 20 < other.memory_bytes < 4 << 30
    assert 0 < one.cpu_share <= 1
    assert probed.start_seconds > 0
    quiet = probed.undisturbed()
    assert quiet.measured[0].train_per_second >= probed.measured[0].train_per_second
    assert quiet.start_seconds <= probed.start_seconds
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_probe_of_nothing_that_trains_says_why(images: Any, tmp_path: Path) -> None:
    bad = configuration(4, 4, 4, 4, 4)
    with pytest.raises(ValueError, match=r"no configuration could be trained.*too small"):
        run_probe([bad], images, tmp_path, 0.5)
