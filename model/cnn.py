"""Build the family of convolutional networks that a search chooses from.

Shapes: N images, C channels, H height, W width, F filters, K classes.

A block is convolution -> 2x2 pooling -> [batch norm] -> relu, then, with two convolutions,
convolution -> [batch norm] -> [squeeze] -> [+ shortcut] -> relu, then [dropout]; with one, the
squeeze comes before the first relu. Pooling "stride" is a first convolution that moves by two, and
no pooling. Pooling comes before normalisation and relu because both then touch a quarter of the
numbers. With max pooling and no batch norm this equals the usual convolution -> relu -> pooling
exactly, since relu keeps order. With batch norm it does not: the statistics are those of the pooled
map, and a negative scale would turn a maximum into a minimum. With average pooling relu acts on the
mean, not before it. The order above is this project's definition of a block.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.images import ImageShape
from model.config import NetworkConfig
from model.dropout import Dropout
from model.geometry import (
    ConvPlan,
    NetworkCost,
    check_fits,
    network_cost,
    plan_network,
    squeezed,
)

__all__ = ["CNN", "NetworkCost", "check_fits", "network_cost", "pixel_statistics"]

_POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "max": nn.MaxPool2d,
    "avg": nn.AvgPool2d,
    "stride": lambda _: nn.Identity(),
}


class CNN(nn.Module):
    """Classify images of one shape; normalisation is inside.

    `mean` and `std` are per channel, in the pixels' own unit [0, 255].

    Raises:
        ValueError: The network does not fit the images, or the statistics do not fit the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        shape: ImageShape,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if len(mean) != shape.channels or len(std) != shape.channels or min(std) <= 0:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values (least std {min(std, default=0)}) "
                f"for {shape.channels} channels: give one mean and one positive std per channel"
            )
        plan = plan_network(config, shape)
        self.config = config
        self.shape = shape
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.blocks = nn.Sequential(
            *(
                Block(convs, config, dropout)
                for convs, dropout in zip(plan.blocks, config.block_dropouts, strict=True)
            )
        )
        self.average = config.head == "average"
        self.hidden = nn.Linear(*plan.linears[0]) if len(plan.linears) == 2 else None
        self.dropout = Dropout(config.dropout) if config.dropout else None
        self.classifier = nn.Linear(*plan.linears[-1])
        _initialise(self)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) float32 for pixels (N, C, H, W), uint8 or float in [0, 255]."""
        x = (pixels.float() - self.mean) / self.std  # (N, C, H, W)
        x = self.blocks(x)  # (N, F, H', W')
        x = x.mean(dim=(2, 3)) if self.average else x.flatten(1)
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        if self.dropout is not None:
            x = self.dropout(x)
        logits: Tensor = self.classifier(x)  # (N, K)
        return logits.float()  # autocast leaves bfloat16


class Block(nn.Module):
    """Halve the map with a pooled convolution, then optionally refine it with a second one."""

    def __init__(self, convs: tuple[ConvPlan, ...], config: NetworkConfig, dropout: float) -> None:
        super().__init__()
        self.residual = config.residual
        self.pool = _POOLINGS[config.pooling](2)
        self.conv1 = _convolution(convs[0], config)
        self.norm1 = _norm(convs[0], config)
        self.conv2 = _convolution(convs[1], config) if len(convs) == 2 else None
        self.norm2 = _norm(convs[1], config) if len(convs) == 2 else None
        self.squeeze = Squeeze(convs[-1].filters) if config.squeeze else None
        channels = config.block_dropout_kind == "channel"
        self.dropout = Dropout(dropout, whole_channels=channels) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, F, H', W') for (N, C, H, W)."""
        x = self.pool(self.conv1(x))
        if self.norm1 is not None:
            x = self.norm1(x)
        if self.conv2 is not None:
            x = F.relu(x)
            y = self.conv2(x)
            if self.norm2 is not None:
                y = self.norm2(y)
            y = y if self.squeeze is None else self.squeeze(y)
            x = x + y if self.residual else y
        elif self.squeeze is not None:
            x = self.squeeze(x)
        x = F.relu(x)
        return x if self.dropout is None else self.dropout(x)


class Squeeze(nn.Module):
    """Weigh each channel by a gate computed from all channels' means.

    Squeeze-and-excitation, Hu et al., arXiv:1709.01507.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.down = nn.Linear(filters, squeezed(filters))
        self.up = nn.Linear(squeezed(filters), filters)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, F, H, W) for the same, each channel scaled by a number in (0, 1)."""
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean(dim=(2, 3))))))  # (N, F)
        return x * gate[:, :, None, None]


def _convolution(plan: ConvPlan, config: NetworkConfig) -> nn.Conv2d:
    return nn.Conv2d(
        plan.in_channels,
        plan.filters,
        plan.kernel_size,
        stride=plan.stride,
        padding=plan.padding,
        bias=not config.batch_norm,  # a bias would be subtracted again by the batch norm
    )


def _norm(plan: ConvPlan, config: NetworkConfig) -> nn.BatchNorm2d | None:
    return nn.BatchNorm2d(plan.filters) if config.batch_norm else None


def _initialise(model: nn.Module) -> None:
    """Draw weights by He et al. (arXiv:1502.01852), biases zero.

    Convolutions preserve the gradient's variance ("fan out"). Preserving the signal's instead makes
    a first layer of 9 inputs so loud that, without batch norm, many units of the head never wake:
    the notebook's 32-filter network reached 0.868 after 5 epochs that way, and 0.889 this way.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images (N, C, H, W) uint8, in [0, 255].

    Counted exactly from a histogram of the 256 values, so the order of the images cannot show.
    A channel that never changes carries nothing; its std is given as 1.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).cpu().double()
        mean = float((counts * values).sum() / counts.sum())
        std = float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
        means.append(mean)
        stds.append(std if std > 0 else 1.0)
    return tuple(means), tuple(stds)
