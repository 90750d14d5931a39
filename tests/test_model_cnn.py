"""The network is what its configuration says, and its cost is known before it is built."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.images import ImageShape
from model.cnn import CNN, Squeeze, check_fits, network_cost, pixel_statistics
from model.config import NetworkConfig
from model.dropout import Dropout

pytestmark = pytest.mark.usefixtures("one_thread")

FASHION = ImageShape(channels=1, height=28, width=28, num_classes=10)
COLOUR = ImageShape(channels=3, height=26, width=33, num_classes=4)

VARIANTS: list[dict[str, Any]] = [
    {"filters": (16, 32, 64), "convs_per_block": 2, "residual": True, "head": "average"},
    {"filters": (8, 12), "kernel_sizes": (5, 3), "dense_width": 24, "dropout": 0.5},
    {"filters": (8, 12), "padding": "valid", "kernel_sizes": (4, 3), "convs_per_block": 2},
    {"filters": (6,), "batch_norm": False, "pooling": "avg", "block_dropouts": (0.3,)},
    {"filters": (6, 6), "batch_norm": False, "convs_per_block": 2, "residual": True},
    {"filters": (8, 12, 8), "pooling": "stride", "convs_per_block": 2, "residual": True},
    {"filters": (8, 12), "pooling": "stride", "padding": "valid", "kernel_sizes": (4, 3)},
    {"filters": (8, 24), "squeeze": True, "convs_per_block": 2, "residual": True},
    {"filters": (8, 12), "squeeze": True, "head": "average"},
]


def build(config: NetworkConfig, shape: ImageShape = FASHION) -> CNN:
    return CNN(config, shape, [100.0] * shape.channels, [50.0] * shape.channels)


# The seed notebook's three networks, counted by hand: valid 3x3 on 28x28 gives 26x26, pooled 13x13.
@pytest.mark.parametrize(
    ("filters", "dropout", "parameters", "multiply_adds"),
    [
        (
            32,
            0.0,
            (9 * 32 + 32) + (13 * 13 * 32 * 32 + 32) + (32 * 10 + 10),  # 173,738
            9 * 32 * 26 * 26 + 5408 * 32 + 32 * 10,
        ),
        (
            32,
            0.25,
            (9 * 32 + 32) + (5408 * 32 + 32) + (32 * 10 + 10),
            9 * 32 * 26 * 26 + 5408 * 32 + 32 * 10,
        ),
        (
            64,
            0.25,
            (9 * 64 + 64) + (10816 * 32 + 32) + (32 * 10 + 10),  # 347,114
            9 * 64 * 26 * 26 + 10816 * 32 + 32 * 10,
        ),
    ],
)
def test_the_seed_notebooks_networks_have_their_parameters(
    filters: int, dropout: float, parameters: int, multiply_adds: int
) -> None:
    config = NetworkConfig(
        filters=(filters,),
        padding="valid",
        batch_norm=False,
        block_dropouts=(dropout,),
        dense_width=32,
    )
    cost = network_cost(config, FASHION)
    assert (cost.parameters, cost.multiply_adds) == (parameters, multiply_adds)
    assert sum(p.numel() for p in build(config).parameters()) == parameters
    dropouts = [m for m in build(config).modules() if isinstance(m, Dropout)]
    assert [m.rate for m in dropouts] == ([dropout] if dropout else [])


def test_a_seed_network_answers_as_the_notebooks_layers_in_their_order() -> None:
    # The notebook has convolution, relu, pooling; without batch norm our order is equal to it.
    config = NetworkConfig(filters=(32,), padding="valid", batch_norm=False, dense_width=32)
    model = build(config).eval()
    weights = list(model.parameters())
    images = torch.randint(0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    x = torch.conv2d((images.float() - 100.0) / 50.0, weights[0], weights[1])
    x = torch.max_pool2d(torch.relu(x), 2).flatten(1)
    x = torch.relu(x @ weights[2].T + weights[3]) @ weights[4].T + weights[5]
    torch.testing.assert_close(model(images.to(torch.uint8)), x)


@pytest.mark.parametrize("shape", [FASHION, COLOUR])
@pytest.mark.parametrize("values", VARIANTS)
def test_the_cost_is_that_of_the_built_network(values: dict[str, Any], shape: ImageShape) -> None:
    config = NetworkConfig(**values)
    model = build(config, shape).eval()
    multiply_adds = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal multiply_adds
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Each output number is one dot product with the weights of its filter or unit.
        multiply_adds += output.numel() * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    logits = model(torch.zeros(1, shape.channels, shape.height, shape.width))
    cost = network_cost(config, shape)
    assert logits.shape == (1, shape.num_classes)
    assert cost.multiply_adds == multiply_adds
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_bytes_and_floats_of_the_same_pixels_give_the_same_logits() -> None:
    model = build(NetworkConfig(filters=(8,))).eval()
    images = torch.randint(0, 256, (3, 1, 28, 28)).to(torch.uint8)
    logits = model(images)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model(images.float()))


def test_logits_are_float32_under_autocast() -> None:
    model = build(NetworkConfig(filters=(8,))).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).dtype == torch.float32


def test_a_residual_block_passes_its_input_on() -> None:
    config = NetworkConfig(filters=(4,), convs_per_block=2, residual=True, batch_norm=False)
    block = build(config).blocks[0]
    assert isinstance(block.conv2, nn.Conv2d)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 1, 8, 8)
    expected = torch.relu(torch.max_pool2d(block.conv1(x), 2))
    assert torch.equal(block(x), expected)


def test_a_strided_block_has_a_quarter_of_a_pooled_ones_work_before_it_is_halved() -> None:
    pooled = NetworkConfig(filters=(8,))
    strided = NetworkConfig(filters=(8,), pooling="stride")
    linear = 14 * 14 * 8 * 10
    assert network_cost(pooled, FASHION).multiply_adds - linear == 28 * 28 * 9 * 8
    assert network_cost(strided, FASHION).multiply_adds - linear == 14 * 14 * 9 * 8
    x = torch.randn(2, 1, 28, 28)
    block = build(strided).blocks[0].eval()
    assert isinstance(block.conv1, nn.Conv2d)
    every_second = torch.conv2d(x, block.conv1.weight, padding=1)[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), torch.relu(every_second / (1 + 1e-5) ** 0.5))


def test_a_squeeze_scales_each_channel_of_each_image_by_its_own_gate() -> None:
    squeeze = Squeeze(8)
    x = torch.rand(3, 8, 5, 5) + 0.5
    gates = squeeze(x) / x  # (3, 8, 5, 5), one number a channel of an image
    assert torch.allclose(gates, gates[:, :, :1, :1].expand_as(gates), atol=1e-6)
    means = x.mean(dim=(2, 3))
    expected = torch.sigmoid(squeeze.up(torch.relu(squeeze.down(means))))
    torch.testing.assert_close(gates[:, :, 0, 0], expected)
    assert len(gates[:, :, 0, 0].unique()) == 24


def test_a_bias_is_left_out_exactly_where_batch_norm_follows() -> None:
    for batch_norm in (True, False):
        model = build(NetworkConfig(filters=(4, 4), convs_per_block=2, batch_norm=batch_norm))
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 4
        assert all((m.bias is None) == batch_norm for m in convolutions)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"filters": (8, 8, 8, 8), "padding": "valid", "kernel_sizes": (3, 3, 3, 5)},
            "block 4: a 1x1 map is smaller than its kernel 5x5 with padding 'valid'",
        ),
        (
            {"filters": (8,) * 5},
            "block 5: a 1x1 map is too small for 2x2 pooling: use at most 4 blocks for 28x28",
        ),
        (
            {"filters": (8, 8, 8), "padding": "valid", "convs_per_block": 2},
            "block 3: a 2x2 map is smaller than its kernel 3x3",
        ),
    ],
)
def test_a_network_that_runs_out_of_map_is_refused(values: dict[str, Any], message: str) -> None:
    config = NetworkConfig(**values)
    for refuse in (check_fits, network_cost, build):
        with pytest.raises(ValueError, match=message):
            refuse(config, FASHION)


def test_statistics_for_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mean has 1 and std 1 values .* for 3 channels"):
        CNN(NetworkConfig(filters=(8,)), COLOUR, [1.0], [1.0])
    with pytest.raises(ValueError, match=r"least std 0\.0"):
        CNN(NetworkConfig(filters=(8,)), FASHION, [1.0], [0.0])


def test_pixel_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (50, 3, 9, 7), generator=torch.Generator().manual_seed(1))
    images[:, 2] = 17
    mean, std = pixel_statistics(images.to(torch.uint8))
    reference = images.double()
    assert mean == pytest.approx(reference.mean(dim=(0, 2, 3)).tolist())
    expected = reference.std(dim=(0, 2, 3), correction=0).tolist()
    # The constant channel's std is given as 1: it is divided by.
    assert std == pytest.approx([*expected[:2], 1.0])
