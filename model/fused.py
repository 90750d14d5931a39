"""Train several networks of one shape at once in one process, each as if it were alone.

On a GPU: one small network leaves most of it idle, several together take about as long as one. On
a CPU core, which a single network keeps busy, separate trainings are as fast.

Axes: M networks side by side, N images, C channels, H height, W width, K classes.
"""

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from data.loader import Loader
from model.config import Configuration
from model.fused_dropout import Draws
from model.fused_network import FusedAverage, FusedNetwork
from model.fused_optimizer import OPTIMIZERS, FusedOptimizer
from model.schedule import learning_rate
from model.train import (
    VALIDATION_BATCH,
    EpochMetrics,
    Training,
    autocast,
    epoch_seed,
    last_epoch,
    loader_of,
)

# Every setting is in one of these three, or nothing is fused: one that was added to a network or a
# recipe, and that nobody has taught to the fused loop, must not be left out in silence.
_SAME = {
    *("filters", "kernel_sizes", "block_dropout_kind", "convs_per_block", "padding", "pooling"),
    *("batch_norm", "residual", "squeeze", "head", "dense_width"),
    *("epochs", "batch_size", "optimizer", "schedule", "precision"),
}
"""Settings that networks trained together have in common."""
_OWN = {
    *("block_dropouts", "dropout"),
    *("learning_rate", "momentum", "weight_decay", "label_smoothing", "ema"),
    *("flip", "alternate", "shift", "erase"),
}
"""Settings that each has its own value of."""
_LIMITED: dict[str, tuple[object, ...]] = {"optimizer": OPTIMIZERS}
"""Settings of which only these values are fused."""


def fusion_key(configuration: Configuration) -> Hashable | None:
    """Return a key that is equal for configurations that can be trained together.

    None: this one can be trained with no other, as it has a setting that is not fused.
    """
    key = []
    for part in (configuration.network, configuration.training):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name not in _SAME | _OWN | _LIMITED.keys():
                return None
            if field.name in _LIMITED and value not in _LIMITED[field.name]:
                return None
            if field.name in _SAME:
                key.append((field.name, value))
    return tuple(key)


def can_fuse(a: Configuration, b: Configuration) -> bool:
    """Tell whether two configurations can be trained together."""
    key = fusion_key(a)
    return key is not None and key == fusion_key(b)


def fit_fused(
    trainings: Sequence[Training],
    train: Sequence[tuple[Tensor, Tensor]],
    validation: Sequence[tuple[Tensor, Tensor] | None],
    *,
    until: int | None = None,
) -> Iterator[list[EpochMetrics]]:
    """Train M networks as `model.train.fit` trains one; yield an epoch's metrics of each at a time.

    Each has its own images, batches, augmentation, dropout and rates, and on a CPU they are those
    it has alone; the sums are added up in another order. At each item every training holds its own
    weights, average and optimizer state: some can be dropped and the others gone on with, together
    or alone.

    `train` and `validation` are as `fit` takes them, one for each training and of equal lengths.
    `images_per_second` is a network's own, `seconds` is the epoch's wall time, which all share. A
    diverged training goes on; its numbers touch no other's wherever a grouped convolution keeps
    its groups apart, as the definition says and a kernel that pads with zeros may not.

    Raises:
        ValueError: The trainings cannot be fused, their images or epochs differ in number, `until`
            lies past the schedule, or there are fewer than 2 training images.
    """
    _check(trainings, train, validation)
    until = last_epoch(trainings[0], until)
    loaders = [loader_of(training, *data) for training, data in zip(trainings, train, strict=True)]
    held_out = [data for data in validation if data is not None]
    return _epochs(_Group(trainings, loaders), held_out, until)


class _Group:
    """Hold trainings that go on together."""

    def __init__(self, trainings: Sequence[Training], loaders: Sequence[Loader]) -> None:
        self.trainings = tuple(trainings)
        self.loaders = tuple(loaders)
        self.device = trainings[0].device
        self.recipes = [training.configuration.training for training in trainings]
        self.network = FusedNetwork([training.model for training in trainings])
        self.optimizer = FusedOptimizer(trainings, self.network.layout, self.network.flat)
        self.average: FusedAverage | None = None
        if any(recipe.ema for recipe in self.recipes):
            self.average = FusedAverage(trainings, self.network)
        smoothing = [recipe.label_smoothing for recipe in self.recipes]
        self.smoothing = torch.tensor(smoothing, device=self.device)[:, None]  # (M, 1)

    def rates(self, epoch: int) -> list[list[float]]:
        """Return the learning rate of each network at each step of an epoch."""
        num_batches = self.loaders[0].num_batches
        num_steps = self.recipes[0].epochs * num_batches
        return [
            [learning_rate(r.schedule, r.learning_rate, step, num_steps) for r in self.recipes]
            for step in range((epoch - 1) * num_batches, epoch * num_batches)
        ]

    def write_back(self, rates: Sequence[float]) -> None:
        """Let every training hold its own weights, average, optimizer state and epoch."""
        if self.average is not None:
            self.average.write_back()
        self.network.write_back()
        self.optimizer.write_back(rates)
        for training in self.trainings:
            training.epoch += 1


def _epochs(
    group: _Group, held_out: Sequence[tuple[Tensor, Tensor]], until: int
) -> Iterator[list[EpochMetrics]]:
    # Denormal numbers take a slow path on CPUs. Per thread, hence set where the training runs.
    torch.set_flush_denormal(True)
    for epoch in range(group.trainings[0].epoch + 1, until + 1):
        started = time.perf_counter()
        rates = group.rates(epoch)
        losses, correct, num_images = _train_epoch(group, epoch, rates)
        trained = time.perf_counter()
        measured: list[tuple[float | None, float | None]] = [(None, None)] * len(losses)
        if held_out:
            measured = _validate(group, held_out)
        group.write_back(rates[-1])
        seconds = time.perf_counter() - started
        yield [
            EpochMetrics(
                epoch=epoch,
                train_loss=losses[number] / num_images,
                train_accuracy=correct[number] / num_images,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                learning_rate=rates[-1][number],
                images_per_second=num_images / (trained - started),
                seconds=seconds,
            )
            for number, (val_loss, val_accuracy) in enumerate(measured)
        ]


def _train_epoch(
    group: _Group, epoch: int, rates: list[list[float]]
) -> tuple[list[float], list[float], int]:
    """Return summed loss and right answers of each network, and images seen by each."""
    device, num_images = group.device, 0
    # On the device for the whole epoch, as the sums are: nothing in a step waits for the host.
    rates_there = torch.tensor(rates, dtype=torch.float32, device=device)
    loss_sums = torch.zeros(len(group.trainings), device=device)
    correct = torch.zeros(len(group.trainings), dtype=torch.int64, device=device)
    precision = autocast(group.trainings[0])
    for training in group.trainings:
        training.model.train()
    if group.average is not None:
        group.average.begin_epoch(len(rates))
    with torch.random.fork_rng(devices=[]):
        # What others drew before must not show; see `Draws`.
        draws = Draws([epoch_seed(t.seed, epoch) for t in group.trainings], device)
        batches = zip(*(loader.epoch(epoch) for loader in group.loaders), strict=True)
        for step, batch in enumerate(batches):
            labels = torch.stack([labels for _, labels in batch])  # (M, N)
            with precision:
                logits = group.network.logits([images for images, _ in batch], draws)
            losses = _smoothed(logits, labels, group.smoothing)
            # The sum's gradient is each network's own: no weight is in two of the losses.
            group.optimizer.step(group.network.gradient(losses.sum()), rates_there[step])
            if group.average is not None:
                group.average.update(step)
            with torch.no_grad():
                loss_sums += losses * labels.shape[1]
                correct += (logits.argmax(dim=2) == labels).sum(dim=1)
            num_images += labels.shape[1]
    return loss_sums.tolist(), correct.tolist(), num_images


@torch.no_grad()
def _validate(
    group: _Group, held_out: Sequence[tuple[Tensor, Tensor]]
) -> list[tuple[float | None, float | None]]:
    """Return mean cross-entropy and accuracy of each network on its own images."""
    network = group.network if group.average is None else group.average.network
    num_images = len(held_out[0][0])
    loss_sums = torch.zeros(len(group.trainings), device=group.device)
    correct = torch.zeros(len(group.trainings), dtype=torch.int64, device=group.device)
    precision = autocast(group.trainings[0])
    for first in range(0, num_images, VALIDATION_BATCH):
        part = slice(first, first + VALIDATION_BATCH)
        labels = torch.stack([labels[part] for _, labels in held_out])
        with precision:
            logits = network.logits([images[part] for images, _ in held_out], None)
        loss_sums += _smoothed(logits, labels, 0.0) * labels.shape[1]
        correct += (logits.argmax(dim=2) == labels).sum(dim=1)
    sums = zip(loss_sums.tolist(), correct.tolist(), strict=True)
    return [(loss / num_images, right / num_images) for loss, right in sums]


def _smoothed(logits: Tensor, labels: Tensor, smoothing: Tensor | float) -> Tensor:
    """Return the mean cross-entropy (M,) of logits (M, N, K), with each network's smoothing.

    As `torch.nn.functional.cross_entropy` defines it, which takes one smoothing for all.
    """
    log_probabilities = logits.log_softmax(dim=2)
    right = log_probabilities.gather(2, labels.unsqueeze(2)).squeeze(2)  # (M, N)
    target = (1.0 - smoothing) * right + smoothing * log_probabilities.mean(dim=2)
    return -target.mean(dim=1)


def _check(
    trainings: Sequence[Training],
    train: Sequence[tuple[Tensor, Tensor]],
    validation: Sequence[tuple[Tensor, Tensor] | None],
) -> None:
    if not trainings or not len(trainings) == len(train) == len(validation):
        raise ValueError(
            f"{len(trainings)} trainings given with {len(train)} training and {len(validation)} "
            "validation sets: give at least one training, and one of each for every training"
        )
    first = trainings[0]
    for number, training in enumerate(trainings, start=1):
        if not can_fuse(first.configuration, training.configuration):
            raise ValueError(
                f"training {number} cannot be fused with training 1: only those that differ in "
                f"{', '.join(sorted(_OWN))} can be, with {' or '.join(OPTIMIZERS)}; train it alone"
            )
        if (training.epoch, training.shape, training.device) != (
            first.epoch,
            first.shape,
            first.device,
        ):
            raise ValueError(
                f"training {number} is at epoch {training.epoch} on {training.device} with "
                f"{training.shape}, training 1 at epoch {first.epoch} on {first.device} with "
                f"{first.shape}: fuse those that are equal in these"
            )
    sizes = {len(images) for images, _ in train}
    held_out = {None if data is None else len(data[0]) for data in validation}
    if len(sizes) > 1 or len(held_out) > 1:
        raise ValueError(
            "the trainings have different numbers of training or validation images: fuse those "
            "that have the same numbers"
        )
