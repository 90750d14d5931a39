"""The stock trial: what is written after Ray's own PyTorch example, for the same configuration.

https://docs.ray.io/en/latest/tune/examples/includes/mnist_ptl_mini.html and tune-pytorch-cifar: a
`DataLoader` over a `Dataset` that transforms image by image (mirror, to float, normalise), a plain
module of contiguous float32 tensors, `torch.optim.SGD`, a scheduler that is stepped, numbers read
with `.item()`. The network has the layers of `model.cnn` in the same order, drawn by the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from data.images import ImageShape, LabelledImages
from data.loader import as_tensors
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.geometry import ConvPlan, plan_network
from model.schedule import learning_rate

_VALIDATION_BATCH = 250  # as ours

# The fields that are followed here; all others must have their defaults.
_NETWORK = {"filters", "kernel_sizes", "convs_per_block", "residual", "head", "dropout"}
_TRAINING = {"epochs", "learning_rate", "batch_size", "momentum", "weight_decay", "schedule"}
_TRAINING |= {"label_smoothing", "flip", "precision"}


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images that are transformed one by one, as torchvision's transforms are."""

    def __init__(
        self, data: LabelledImages, mean: Sequence[float], std: Sequence[float], *, flip: bool
    ) -> None:
        """Keep the images (N, C, H, W) uint8; `mean` and `std` are per channel, in [0, 255]."""
        self._images, self._labels = as_tensors(data, "cpu")
        self._mean, self._std = torch.tensor(mean) / 255, torch.tensor(std) / 255
        self._flip = flip

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image (C, H, W) float32 and its label."""
        image = self._images[index]
        if self._flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        image = image.float().div(255)
        image = (image - self._mean[:, None, None]) / self._std[:, None, None]
        return image, int(self._labels[index])


class Block(nn.Module):
    """Convolution, pooling, norm, relu; then, with two, convolution, norm, [shortcut], relu."""

    def __init__(self, convs: Sequence[ConvPlan], *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1, self.norm1 = _convolution(convs[0]), nn.BatchNorm2d(convs[0].filters)
        self.pool = nn.MaxPool2d(2)
        self.has_two = len(convs) == 2
        if self.has_two:
            self.conv2, self.norm2 = _convolution(convs[1]), nn.BatchNorm2d(convs[1].filters)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, F, H', W') for (N, C, H, W)."""
        x = F.relu(self.norm1(self.pool(self.conv1(x))))
        if self.has_two:
            y = self.norm2(self.conv2(x))
            x = F.relu(x + y if self.residual else y)
        return x


def _convolution(plan: ConvPlan) -> nn.Conv2d:
    return nn.Conv2d(
        plan.in_channels, plan.filters, plan.kernel_size, padding=plan.padding, bias=False
    )


class Net(nn.Module):
    """The network of a configuration, without normalisation of the pixels."""

    def __init__(self, config: NetworkConfig, shape: ImageShape) -> None:
        super().__init__()
        plan = plan_network(config, shape)
        self.blocks = nn.Sequential(
            *(Block(convs, residual=config.residual) for convs in plan.blocks)
        )
        self.average = config.head == "average"
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(*plan.linears[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_normal_(self.classifier.weight, nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) for normalised images (N, C, H, W) float32."""
        x = self.blocks(x)
        x = x.mean(dim=(2, 3)) if self.average else torch.flatten(x, 1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def train(
    configuration: Configuration,
    train_images: LabelledImages,
    validation: LabelledImages,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    *,
    workers: int = 0,
    begun: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Train to the end of the schedule; yield the metrics of each epoch, named as ours.

    Args:
        configuration: The network and the recipe.
        train_images: To train on.
        validation: To score on.
        mean: Of the training pixels per channel, in [0, 255].
        std: The same.
        seed: Decides the first weights, the batches, the augmentation and the dropout.
        workers: Processes of the `DataLoader`; 0 prepares the batches in this one.
        begun: Called when the first batch is about to be asked for.

    Raises:
        ValueError: The configuration has what the stock trial does not follow.
    """
    check(configuration)
    recipe = configuration.training
    torch.manual_seed(seed)
    model = Net(configuration.network, train_images.shape)
    loader = DataLoader(
        Pictures(train_images, mean, std, flip=recipe.flip),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    held_out = DataLoader(
        Pictures(validation, mean, std, flip=False),
        batch_size=_VALIDATION_BATCH,
        num_workers=workers,
    )
    groups: list[dict[str, Any]] = [  # ours spares the others from decay: one recipe for both
        {"params": [p for p in model.parameters() if p.dim() >= 2]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    num_steps = recipe.epochs * len(loader)
    scheduler = LambdaLR(
        optimizer, lambda step: learning_rate(recipe.schedule, 1.0, step, num_steps)
    )
    begun()
    for epoch in range(1, recipe.epochs + 1):
        started, loss_sum, num_images = time.perf_counter(), 0.0, 0
        model.train()
        for images, labels in loader:
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            loss_sum += loss.item() * len(labels)
            num_images += len(labels)
        trained = time.perf_counter()
        accuracy = _accuracy(model, held_out)
        yield {
            "epoch": epoch,
            "train_loss": loss_sum / num_images,
            "val_accuracy": accuracy,
            "images_per_second": num_images / (trained - started),
            "seconds": time.perf_counter() - started,
        }


def _accuracy(model: Net, loader: DataLoader[tuple[Tensor, int]]) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(dim=1) == labels).sum().item())
            total += len(labels)
    return right / total


def check(configuration: Configuration) -> None:
    """Refuse a configuration that the stock trial does not follow in every field.

    Raises:
        ValueError: One line with the first such field.
    """
    network, recipe = configuration.network, configuration.training
    plain_network = NetworkConfig(filters=network.filters)
    plain_recipe = TrainingConfig(epochs=recipe.epochs, learning_rate=recipe.learning_rate)
    for part, plain, followed in (
        (network, plain_network, _NETWORK),
        (recipe, plain_recipe, _TRAINING),
    ):
        for name in part.__slots__:
            if name not in followed and getattr(part, name) != getattr(plain, name):
                raise ValueError(
                    f"{name} is {getattr(part, name)!r}, but the stock trial knows only"
                    f" {getattr(plain, name)!r}"
                )
