"""Networks trained together become what each becomes alone, and can be parted at any epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.images import ImageShape
from model import fused
from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.fused import can_fuse, fit_fused, fusion_key
from model.fused_dropout import drop_together
from model.train import EpochMetrics, Training, fit

pytestmark = pytest.mark.usefixtures("one_thread", "orthogonal_in_float32")

# The same sums in another order: of float32's seven digits these epochs leave six, and other
# machines' kernels may leave fewer.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
Data = tuple[Tensor, Tensor]


@pytest.fixture
def orthogonal_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Muon round as everything else does: a step in bfloat16 has but two digits."""
    monkeypatch.setattr("model.precision._cpu_has_bf16", lambda: False)


def images(num_images: int, seed: int, channels: int = 1) -> Data:
    """Draw noise with a bright band whose height tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (num_images,), generator=generator)
    pixels = torch.randint(0, 150, (num_images, channels, 12, 12), generator=generator)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 60
    return pixels.to(torch.uint8), labels


OWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"dropout": 0.2, "block_dropouts": (0.1,)}, {"learning_rate": 0.05, "weight_decay": 5e-3}),
    ({}, {"learning_rate": 0.02, "momentum": 0.5, "flip": True, "shift": 1, "ema": 0.9}),
    (
        {"block_dropouts": (0.0, 0.3)},
        {
            **{"learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.1},
            **{"label_smoothing": 0.1, "erase": 0.5, "ema": 0.5},
        },
    ),
]
"""Of each network: what it does not share with the others."""


def configurations(network: dict[str, Any] | None = None, **training: Any) -> list[Configuration]:
    shared = {"epochs": 3, "batch_size": 32, "precision": "fp32"} | training
    return [
        Configuration(
            network=NetworkConfig(**({"filters": (4, 8)} | own | (network or {}))),
            training=TrainingConfig(**(of_training | shared)),
        )
        for own, of_training in OWN
    ]


def start(configs: Sequence[Configuration], channels: int = 1) -> list[Training]:
    """Start a training of each, with its own seed and pixel statistics."""
    shape = ImageShape(channels=channels, height=12, width=12, num_classes=3)
    return [
        Training.start(
            config, shape, [90.0 + number] * channels, [50.0 - number] * channels, number, "cpu"
        )
        for number, config in enumerate(configs)
    ]


def sets(num_images: int, networks: int, seed: int = 0, channels: int = 1) -> list[Data]:
    return [images(num_images, seed + number, channels) for number in range(networks)]


def alone(
    trainings: Sequence[Training], train: Sequence[Data], held_out: Sequence[Data]
) -> list[list[EpochMetrics]]:
    """Train one after another; return each one's epochs."""
    return [list(fit(*of)) for of in zip(trainings, train, held_out, strict=True)]


def assert_same(left: Training, right: Training) -> None:
    """Weights, statistics, their average and what the optimizer keeps, by name."""
    assert (left.average is None) == (right.average is None)
    if left.average is not None and right.average is not None:
        assert left.average.steps == right.average.steps > 0
    for held in ("model", "network"):
        ours, theirs = (getattr(training, held) for training in (left, right))
        if theirs is not None:
            assert ours.state_dict().keys() == theirs.state_dict().keys()
            for key, tensor in theirs.state_dict().items():
                exact = {"rtol": 0.0, "atol": 0.0}
                close = CLOSE if tensor.is_floating_point() else exact
                torch.testing.assert_close(ours.state_dict()[key], tensor, **close)
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (left, right))
    assert left.epoch == right.epoch
    assert left.optimizer.param_groups[0]["lr"] == right.optimizer.param_groups[0]["lr"]
    for index in theirs.keys() | ours.keys():
        of = theirs.get(index, {})
        assert {k for k, v in ours.get(index, {}).items() if v is not None} == {
            k for k, v in of.items() if v is not None
        }
        for key, tensor in of.items():
            if tensor is not None:
                assert ours[index][key].stride() == tensor.stride()
                torch.testing.assert_close(ours[index][key], tensor, **CLOSE)


def numbers(metrics: EpochMetrics) -> list[float]:
    """Return all that does not depend on the clock; the two accuracies come last."""
    assert metrics.val_loss is not None and metrics.val_accuracy is not None
    return [
        *(metrics.epoch, metrics.train_loss, metrics.val_loss, metrics.learning_rate),
        *(metrics.train_accuracy, metrics.val_accuracy),
    ]


def assert_same_numbers(left: EpochMetrics, right: EpochMetrics) -> None:
    """The last digit of a logit can move one answer in a hundred, not more."""
    assert numbers(left)[:4] == pytest.approx(numbers(right)[:4], rel=1e-4)
    assert numbers(left)[4:] == pytest.approx(numbers(right)[4:], abs=0.011)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"head": "average", "dense_width": 6}, {}),
    ({"convs_per_block": 2, "residual": True}, {"schedule": "cosine"}),
    ({"convs_per_block": 2, "dense_width": 5, "batch_norm": False}, {}),
    ({"batch_norm": False, "head": "average", "pooling": "avg"}, {"schedule": "constant"}),
    ({"padding": "valid", "kernel_sizes": (3, 2)}, {}),
    ({"pooling": "stride", "squeeze": True}, {}),
    ({"convs_per_block": 2, "residual": True, "squeeze": True, "dense_width": 5}, {}),
    ({"block_dropout_kind": "channel"}, {"alternate": True}),
    ({}, {"ema": 0.0}),
    ({"batch_norm": False}, {"ema": 0.9}),
    ({}, {"optimizer": "adamw"}),
    ({}, {"optimizer": "muon"}),
    ({"convs_per_block": 2, "squeeze": True, "dense_width": 5}, {"optimizer": "muon"}),
    ({"batch_norm": False, "head": "average"}, {"optimizer": "muon", "weight_decay": 0.5}),
]


@pytest.mark.parametrize(("network", "recipe"), CASES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_together_each_becomes_what_it_becomes_alone(
    network: dict[str, Any], recipe: dict[str, Any], channels: int
) -> None:
    configs = configurations(network, **recipe)
    train, held_out = sets(100, 3, 0, channels), sets(270, 3, 9, channels)
    separate, together = start(configs, channels), start(configs, channels)
    expected = alone(separate, train, held_out)
    found = list(fit_fused(together, train, held_out))
    for epoch, rows in enumerate(found):
        for number, metrics in enumerate(rows):
            assert_same_numbers(metrics, expected[number][epoch])
    for ours, theirs in zip(together, separate, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_together_in_bfloat16_they_learn_as_they_do_alone(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.precision._cpu_has_bf16", lambda: True)
    recipe = {"precision": "bf16", "epochs": 4, "optimizer": optimizer}
    configs = configurations({"convs_per_block": 2}, **recipe)
    train, held_out = sets(480, 3), sets(120, 3, 9)
    expected = alone(start(configs), train, held_out)
    *_, found = fit_fused(start(configs), train, held_out)
    for metrics, theirs in zip(found, expected, strict=True):
        assert metrics.train_loss == pytest.approx(theirs[-1].train_loss, rel=0.05)


def test_an_orthogonal_step_in_bfloat16_is_the_one_alone_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.precision._cpu_has_bf16", lambda: True)
    network = {"convs_per_block": 2, "filters": (8, 16), "squeeze": True, "dense_width": 6}
    configs = configurations(network, optimizer="muon", epochs=1)
    first, separate, together = start(configs), start(configs), start(configs)
    train = sets(32, 3)  # one batch, one step
    alone(separate, train, train)
    list(fit_fused(together, train, train))
    for number in range(3):
        before, theirs, ours = (
            dict(trainings[number].model.named_parameters())
            for trainings in (first, separate, together)
        )
        for name in before:
            if before[name].dim() >= 2:
                moved = (theirs[name] - before[name]).norm()
                # Each of the two is up to a twentieth from the step in float32: five iterations
                # round to eight bits, and the last digit of a gradient decides which way.
                assert moved > 0 and (ours[name] - theirs[name]).norm() <= 0.1 * moved


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_one_parted_at_a_rung_goes_on_alone_and_the_others_together(
    optimizer: str, tmp_path: Path
) -> None:
    configs = configurations({"convs_per_block": 2, "residual": True}, optimizer=optimizer)
    train, held_out = sets(100, 3), sets(40, 3, 9)
    separate, together = start(configs), start(configs)
    alone(separate, train, held_out)

    first = list(fit_fused(together, train, held_out, until=1))
    assert len(first) == 1 and [t.epoch for t in together] == [1, 1, 1]
    save_checkpoint(together[1], tmp_path / "c.safetensors", {})
    resumed, _ = load_checkpoint(tmp_path / "c.safetensors", "cpu")
    list(fit(resumed, train[1], held_out[1]))
    list(fit_fused([together[0], together[2]], [train[0], train[2]], [held_out[0], held_out[2]]))

    for ours, theirs in zip([together[0], resumed, together[2]], separate, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_at_every_epoch_each_training_holds_its_own_state(optimizer: str) -> None:
    configs = configurations(optimizer=optimizer)
    train, held_out = sets(100, 3), sets(40, 3, 9)
    separate, together = start(configs), start(configs)
    theirs = [fit(*of) for of in zip(separate, train, held_out, strict=True)]
    for _ in fit_fused(together, train, held_out):
        for number, epochs in enumerate(theirs):
            next(epochs)
            assert_same(together[number], separate[number])


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_one_that_diverges_goes_on_and_touches_no_other(optimizer: str) -> None:
    configs = configurations({"convs_per_block": 2}, optimizer=optimizer)
    train, held_out = sets(100, 3), sets(40, 3, 9)
    together, unharmed = start(configs), start(configs)
    for block in together[1].model.blocks:
        nn.init.constant_(block.conv1.weight, float("inf"))
    found = list(fit_fused(together, train, held_out))
    expected = list(fit_fused(unharmed, train, held_out))
    assert len(found) == 3
    assert not math.isfinite(found[0][1].train_loss)
    for number in (0, 2):
        assert [numbers(rows[number]) for rows in found] == [
            numbers(rows[number]) for rows in expected
        ]


def test_who_else_is_trained_does_not_show_and_nothing_is_drawn_from_the_caller() -> None:
    configs = configurations()
    train = sets(100, 3)
    whole, part = start(configs), start(configs)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(fit_fused(whole, train, [None] * 3))
    assert torch.equal(torch.rand(3), expected)
    rows = list(fit_fused(part[1:], train[1:], [None] * 2))
    assert rows[-1][0].val_loss is None and rows[-1][0].val_accuracy is None
    for left, right in zip(whole[1:], part[1:], strict=True):
        assert_same(left, right)


def test_each_network_drops_at_its_own_rate_where_one_draw_serves_all() -> None:
    # What other devices than a CPU do.
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.0, 0.1, 0.5])
    x = torch.ones(3, 200, 500, dtype=torch.bfloat16)
    out = drop_together(x, rates[:, None, None], generator).float()
    assert torch.equal(out[0], x[0].float())
    for part, rate in zip(out[1:], (0.1, 0.5), strict=True):
        error = 5 * (rate * (1 - rate) / part.numel()) ** 0.5
        assert abs(float((part == 0).float().mean()) - rate) < error
        assert part[part != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=0.01)
    maps = drop_together(
        torch.ones(4, 6, 5, 5), torch.full((1, 6, 1, 1), 0.5), generator, whole_channels=True
    )
    assert set(maps.sum(dim=(2, 3)).unique().tolist()) == {0.0, 50.0}


@pytest.mark.parametrize("part", [NetworkConfig, TrainingConfig])
def test_every_setting_is_shared_or_each_ones_own(part: type[Any]) -> None:
    # A new setting ends here: teach the fused loop, or let it refuse.
    known = fused._SAME | fused._OWN | fused._LIMITED.keys()
    assert {field.name for field in fields(part)} <= known
    assert not fused._SAME & fused._OWN


def test_a_setting_that_nobody_has_taught_is_not_fused() -> None:
    grown = make_dataclass(
        "Grown", ["new_setting"], bases=(TrainingConfig,), frozen=True, kw_only=True
    )
    config = configurations()[0]
    taught = TrainingConfig(epochs=1, learning_rate=0.1)
    untaught = grown(epochs=1, learning_rate=0.1, new_setting=False)
    assert fusion_key(replace(config, training=taught)) is not None
    assert fusion_key(replace(config, training=untaught)) is None


def test_the_key_tells_what_can_be_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, _ = configurations()
    assert can_fuse(one, other)
    assert not can_fuse(one, configurations({"filters": (4, 9)})[0])
    assert not can_fuse(one, configurations(epochs=4)[0])
    muon, averaged, _ = configurations(optimizer="muon", ema=0.99)
    assert can_fuse(muon, averaged)
    assert not can_fuse(one, muon)
    monkeypatch.setitem(fused._LIMITED, "optimizer", ("sgd", "adamw"))
    assert fusion_key(muon) is None
    assert not can_fuse(muon, muon)
    assert can_fuse(one, other)


def test_what_cannot_be_fused_is_refused_at_once() -> None:
    trainings, train, held_out = start(configurations()), sets(64, 3), sets(40, 3, 9)
    with pytest.raises(ValueError, match="until is 4, but the schedule has 3 epochs"):
        fit_fused(trainings, train, held_out, until=4)
    with pytest.raises(ValueError, match="3 trainings given with 2 training and 3"):
        fit_fused(trainings, train[:2], held_out)
    with pytest.raises(ValueError, match="at least one training"):
        fit_fused([], [], [])
    with pytest.raises(ValueError, match="different numbers of training or validation"):
        fit_fused(trainings, [*train[:2], images(65, 0)], held_out)
    with pytest.raises(ValueError, match="different numbers of training or validation"):
        fit_fused(trainings, train, [*held_out[:2], None])
    with pytest.raises(ValueError, match="1 training images given"):
        fit_fused(trainings, sets(1, 3), held_out)
    (muon, *_) = start(configurations(optimizer="muon"))
    with pytest.raises(ValueError, match=r"training 2 cannot be fused with training 1: .* ema, "):
        fit_fused([trainings[0], muon], train[:2], held_out[:2])
    list(fit(trainings[2], train[2], None, until=1))
    with pytest.raises(
        ValueError, match=r"training 3 is at epoch 1 on cpu .* training 1 at epoch 0"
    ):
        fit_fused(trainings, train, held_out)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_on_a_gpu_they_learn_as_on_a_cpu(optimizer: str) -> None:
    configs = [
        replace(config, network=replace(config.network, dropout=0.0, block_dropouts=(0.0, 0.0)))
        for config in configurations({"convs_per_block": 2}, optimizer=optimizer)
    ]
    train, held_out = sets(100, 3), sets(40, 3, 9)
    shape = ImageShape(channels=1, height=12, width=12, num_classes=3)
    here, there = (
        [
            Training.start(config, shape, [90.0], [50.0], number, device)
            for number, config in enumerate(configs)
        ]
        for device in ("cpu", torch.device("cuda", 0))
    )
    expected = list(fit_fused(here, train, held_out))
    moved = [[(x.cuda(), y.cuda()) for x, y in data] for data in (train, held_out)]
    for rows, theirs in zip(fit_fused(there, *moved), expected, strict=True):
        for metrics, other in zip(rows, theirs, strict=True):
            assert metrics.train_loss == pytest.approx(other.train_loss, rel=0.02)
