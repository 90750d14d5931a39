"""Work out the size of every map of a network, and from it what the network costs.

No torch here: a proposal that does not fit the images is refused, and a network's parameters and
multiply-adds are known exactly, before anything is built. `model.cnn` builds from the same plan.
"""

from dataclasses import dataclass
from itertools import pairwise

from data.images import ImageShape
from model.config import NetworkConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvPlan:
    """Place one convolution: what goes in, what comes out."""

    in_channels: int
    """Channels of its input."""
    filters: int
    """Channels of its output."""
    kernel_size: int
    """Side of its square kernels."""
    padding: int
    """Zeros added on every side."""
    out_size: tuple[int, int]
    """Height and width of its output."""
    stride: int = 1
    """Positions moved from one output to the next; 2 halves the map in place of pooling."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        per_position = self.kernel_size**2 * self.in_channels * self.filters
        return per_position * self.out_size[0] * self.out_size[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """Hold the geometry of a network on images of one shape."""

    blocks: tuple[tuple[ConvPlan, ...], ...]
    """The one or two convolutions of each block."""
    linears: tuple[tuple[int, int], ...]
    """Inputs and outputs of each linear layer of the head."""
    squeezes: tuple[tuple[int, int], ...] = ()
    """Channels and hidden units of each block's squeeze-and-excitation; empty without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkCost:
    """State what a network costs to store and to run."""

    parameters: int
    """Learned numbers (batch norm's running statistics are not learned)."""
    multiply_adds: int
    """Multiply-adds of convolutions and linear layers for one image, one forward pass."""


def plan_network(config: NetworkConfig, shape: ImageShape) -> NetworkPlan:
    """Lay out `config` on images of `shape`.

    Raises:
        ValueError: A block runs out of map, naming the block, its map and its kernel.
    """
    channels, size = shape.channels, (shape.height, shape.width)
    strided = config.pooling == "stride"
    blocks = []
    for block, (filters, kernel) in enumerate(
        zip(config.filters, config.kernel_sizes, strict=True), start=1
    ):
        convs = []
        for place in range(config.convs_per_block):
            padding = kernel // 2 if config.padding == "same" else 0
            stride = 2 if strided and place == 0 else 1
            room = (size[0] + 2 * padding - kernel, size[1] + 2 * padding - kernel)
            out_size = (room[0] // stride + 1, room[1] // stride + 1)
            if min(room) < 0:
                raise ValueError(
                    f"block {block}: a {size[0]}x{size[1]} map is smaller than its kernel "
                    f"{kernel}x{kernel} with padding 'valid': use fewer blocks, smaller kernels "
                    "or padding 'same'"
                )
            convs.append(
                ConvPlan(
                    in_channels=channels,
                    filters=filters,
                    kernel_size=kernel,
                    padding=padding,
                    out_size=out_size,
                    stride=stride,
                )
            )
            channels, size = filters, out_size
            if place == 0 and not strided:
                if min(size) < 2:
                    raise ValueError(
                        f"block {block}: a {size[0]}x{size[1]} map is too small for 2x2 pooling: "
                        f"use at most {block - 1} blocks for "
                        f"{shape.height}x{shape.width} images"
                    )
                size = (size[0] // 2, size[1] // 2)
        blocks.append(tuple(convs))
    features = channels * (size[0] * size[1] if config.head == "flatten" else 1)
    widths = [features, *([config.dense_width] if config.dense_width else []), shape.num_classes]
    squeezes = tuple((filters, squeezed(filters)) for filters in config.filters)
    return NetworkPlan(
        blocks=tuple(blocks),
        linears=tuple(pairwise(widths)),
        squeezes=squeezes if config.squeeze else (),
    )


def squeezed(filters: int) -> int:
    """Return the hidden units of a squeeze-and-excitation over `filters` channels.

    A quarter (the paper's sixteenth leaves one or two units in networks as narrow as these).
    """
    return max(4, filters // 4)


def check_fits(config: NetworkConfig, shape: ImageShape) -> None:
    """Refuse a network that cannot run on images of `shape`.

    Raises:
        ValueError: The reason, on one line.
    """
    plan_network(config, shape)


def network_cost(config: NetworkConfig, shape: ImageShape) -> NetworkCost:
    """Count parameters and multiply-adds exactly, without building the network.

    Raises:
        ValueError: The network does not fit the images.
    """
    plan = plan_network(config, shape)
    parameters = multiply_adds = 0
    for conv in (conv for block in plan.blocks for conv in block):
        # Batch norm learns a scale and a shift per filter, in place of the convolution's bias.
        per_filter = 2 if config.batch_norm else 1
        parameters += conv.filters * (conv.kernel_size**2 * conv.in_channels + per_filter)
        multiply_adds += conv.multiply_adds
    around = [pair for wide, narrow in plan.squeezes for pair in ((wide, narrow), (narrow, wide))]
    for inputs, outputs in (*plan.linears, *around):
        parameters += (inputs + 1) * outputs
        multiply_adds += inputs * outputs
    return NetworkCost(parameters=parameters, multiply_adds=multiply_adds)
