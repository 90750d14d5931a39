"""Train a network: the one loop that a trial, a retrain, a benchmark and a test all drive.

`fit` yields one `EpochMetrics` per epoch and leaves to its caller what to do with it. On a CPU the
numbers repeat bit for bit for the same seed, software and number of threads, whether or not the
training was interrupted: the learning rate depends on the step, the batches and the dropout on
(seed, epoch), and on nothing that happened before.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.images import ImageShape
from data.loader import Augmentation, Loader
from model.average import WeightAverage
from model.cnn import CNN
from model.config import Configuration
from model.precision import resolve_precision
from model.schedule import build_optimizer, learning_rate

# Larger ones outgrow the cache and the allocator: 1000 images were half as fast on one CPU core.
VALIDATION_BATCH = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """State what one epoch gave; not-a-number and infinity are passed on as they are."""

    epoch: int
    """Epochs done, counted from 1."""
    train_loss: float
    """Mean of the trained objective (with label smoothing) while the epoch went on."""
    train_accuracy: float
    """Share of right answers on the augmented training images while the epoch went on."""
    val_loss: float | None
    """Mean cross-entropy on the validation images, without label smoothing; of the averaged weights
    where there is an average."""
    val_accuracy: float | None
    """Share of right answers on the validation images, of the same weights."""
    learning_rate: float
    """Of the epoch's last step."""
    images_per_second: float
    """Training images per second of the training part."""
    seconds: float
    """Wall time of the whole epoch, validation included."""


@dataclass(kw_only=True, slots=True)
class Training:
    """Hold everything that changes while a network is trained, ready to go on."""

    configuration: Configuration
    """The network and the recipe."""
    shape: ImageShape
    """Of the images trained on."""
    seed: int
    """Decides the first weights, the batches, the augmentation and the dropout."""
    device: torch.device
    """Where the network is."""
    model: CNN
    """The network, channels last."""
    optimizer: torch.optim.Optimizer
    """Its optimizer, with state from the first step on."""
    average: WeightAverage | None = None
    """The moving average of its weights, where the recipe has one."""
    epoch: int = 0
    """Epochs done so far."""

    @classmethod
    def start(
        cls,
        configuration: Configuration,
        shape: ImageShape,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: torch.device | str,
    ) -> Self:
        """Build a network and its optimizer at epoch 0; `mean` and `std` are in [0, 255].

        Raises:
            ValueError: The network does not fit the images.
        """
        device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            # Always drawn on the CPU: one seed is one start on every device.
            torch.default_generator.manual_seed(seed)
            model = CNN(configuration.network, shape, mean, std)
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(
            configuration=configuration,
            shape=shape,
            seed=seed,
            device=device,
            model=model,
            optimizer=build_optimizer(model, configuration.training, device),
            average=WeightAverage(model, ema) if (ema := configuration.training.ema) else None,
        )

    @property
    def network(self) -> CNN:
        """The network to measure and to keep: the averaged one where there is an average."""
        return self.model if self.average is None else cast(CNN, self.average.network)


def fit(
    training: Training,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor] | None,
    *,
    until: int | None = None,
) -> Iterator[EpochMetrics]:
    """Train to the end of epoch `until` (default: all of the schedule), one epoch per item.

    `train` and `validation` are images (N, C, H, W) uint8 and labels (N,) int64 on the training's
    device. The last, smaller batch of an epoch is dropped. A diverged training yields its
    not-a-number losses and goes on; the caller decides.

    Raises:
        ValueError: `until` lies past the schedule, or there are fewer than 2 training images.
    """
    until = last_epoch(training, until)
    loader = loader_of(training, *train)
    return _epochs(training, loader, validation, until)


def last_epoch(training: Training, until: int | None) -> int:
    """Return the epoch to train to, the schedule's last where `until` is None.

    Raises:
        ValueError: `until` lies past the schedule.
    """
    epochs = training.configuration.training.epochs
    until = epochs if until is None else until
    if not 0 <= until <= epochs:
        raise ValueError(
            f"until is {until}, but the schedule has {epochs} epochs: "
            "start a training with more epochs to go further"
        )
    return until


def loader_of(training: Training, images: Tensor, labels: Tensor) -> Loader:
    """Return what serves a training its batches of images (N, C, H, W) uint8 and labels (N,) int64.

    Raises:
        ValueError: There are fewer than 2 images.
    """
    config = training.configuration.training
    if len(images) < 2:
        raise ValueError(f"{len(images)} training images given, but batch norm needs at least 2")
    return Loader(
        images,
        labels,
        batch_size=config.batch_size,
        seed=training.seed,
        augmentation=Augmentation(
            flip=config.flip,
            alternate=config.alternate,
            shift=config.shift,
            erase=config.erase,
        ),
        drop_last=len(images) > config.batch_size,
    )


def _epochs(
    training: Training, loader: Loader, validation: tuple[Tensor, Tensor] | None, until: int
) -> Iterator[EpochMetrics]:
    # Denormal numbers take a slow path on CPUs. Per thread, hence set where the training runs.
    torch.set_flush_denormal(True)
    while training.epoch < until:
        started = time.perf_counter()
        loss, correct, num_images, rate = _train_epoch(training, loader, training.epoch + 1)
        trained = time.perf_counter()
        val_loss = val_accuracy = None
        if validation is not None:
            val_loss, val_accuracy = _validate(training, *validation)
        training.epoch += 1
        yield EpochMetrics(
            epoch=training.epoch,
            train_loss=loss / num_images,
            train_accuracy=correct / num_images,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=rate,
            images_per_second=num_images / (trained - started),
            seconds=time.perf_counter() - started,
        )


def _train_epoch(training: Training, loader: Loader, epoch: int) -> tuple[float, float, int, float]:
    """Return summed loss, right answers, images seen and the last learning rate."""
    config = training.configuration.training
    model, optimizer, device = training.model, training.optimizer, training.device
    precision = autocast(training)
    num_steps = config.epochs * loader.num_batches
    step = (epoch - 1) * loader.num_batches
    num_images, rate = 0, 0.0
    # Kept on the device: reading a number per batch would make a GPU wait for every step.
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Dropout draws from the global generator; what others drew before must not show.
        torch.manual_seed(epoch_seed(training.seed, epoch))
        for images, labels in loader.epoch(epoch):
            rate = learning_rate(config.schedule, config.learning_rate, step, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with precision:
                logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if training.average is not None:
                training.average.update(model)
            with torch.no_grad():
                loss_sum += loss * len(labels)
                correct += (logits.argmax(dim=1) == labels).sum()
            num_images += len(labels)
            step += 1
    return float(loss_sum), float(correct), num_images, rate


@torch.inference_mode()
def _validate(training: Training, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    model = training.network.eval()
    loss_sum = torch.zeros((), device=training.device)
    correct = torch.zeros((), dtype=torch.int64, device=training.device)
    precision = autocast(training)
    for first in range(0, len(images), VALIDATION_BATCH):
        batch = slice(first, first + VALIDATION_BATCH)
        with precision:
            logits = model(images[batch])
        loss_sum += F.cross_entropy(logits, labels[batch], reduction="sum")
        correct += (logits.argmax(dim=1) == labels[batch]).sum()
    return float(loss_sum) / len(images), float(correct) / len(images)


def autocast(training: Training) -> torch.autocast:
    """Return the context in which a training's forward passes are computed."""
    precision = resolve_precision(training.configuration.training.precision, training.device)
    return torch.autocast(training.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of what an epoch of a training draws beside its batches: its dropout."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
