"""Train a configuration for a short while, in this process, and tell what that costs. No Ray."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.images import ImageShape, LabelledImages
from model.config import Configuration
from search.machine.slots import pick_device

_MOST_EPOCHS = 100_000  # of a probed schedule: the longest that a configuration may have
_MOST_BATCHES = 8  # in one measured stretch: an epoch of `fit` over a few images
_SCORED_IMAGES = 500  # after each stretch
_QUICK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one configuration costs in one slot while the others are busy."""

    configuration: Configuration
    slot: int
    train_per_second: float
    """Images trained on in a second."""
    score_per_second: float
    """Validation images scored in a second."""
    save_seconds: float
    """To write its checkpoint."""
    checkpoint_bytes: int
    memory_bytes: int
    """Most memory of the slot's process up to now, images left out."""
    gpu_bytes: int
    """Most GPU memory that the slot's process reserved up to now; 0 on a CPU."""
    cpu_share: float
    """CPU time that the process got, by its time; below 1 where other programs took the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What configurations are measured with, in one process."""

    slot: int
    tensors: Any
    shape: ImageShape
    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    device: Any
    path: Path

    def measure(self, configuration: Configuration, seconds: float) -> Measured:
        """Train for about so long, after two stretches that warm up and tell how long one is."""
        import psutil
        import torch

        from model.checkpoint import save_checkpoint
        from model.train import Training, fit

        begun = time.perf_counter()
        images, labels = self.tensors
        recipe = replace(configuration.training, epochs=_MOST_EPOCHS)
        mean, std = self.pixels
        training = Training.start(
            replace(configuration, training=recipe), self.shape, mean, std, 0, self.device
        )
        scored = images[:_SCORED_IMAGES], labels[:_SCORED_IMAGES]
        batch = min(recipe.batch_size, len(images))
        first = (images[:batch], labels[:batch])
        for warm in fit(training, first, scored, until=2):
            stretch = warm.seconds
        left = seconds - (time.perf_counter() - begun)
        count = max(1, min(_MOST_BATCHES, len(images) // batch, int(left / stretch / 2)))
        part = (images[: count * batch], labels[: count * batch])
        trained = scored_for = 0.0
        stretches, computed = 0, time.process_time()
        for metrics in fit(training, part, scored):
            trained += len(part[0]) / metrics.images_per_second
            scored_for += metrics.seconds - len(part[0]) / metrics.images_per_second
            stretches += 1
            if time.perf_counter() - begun > seconds:
                break
        computed = time.process_time() - computed
        saving = time.perf_counter()
        save_checkpoint(training, self.path, asdict(metrics))
        saving = time.perf_counter() - saving
        size = self.path.stat().st_size
        self.path.unlink()
        on_gpu = self.device.type == "cuda"
        return Measured(
            configuration=configuration,
            slot=self.slot,
            train_per_second=stretches * len(part[0]) / trained,
            score_per_second=stretches * len(scored[0]) / scored_for,
            save_seconds=saving,
            checkpoint_bytes=size,
            # Workers keep what they once took (`worker_environment`): what it is now was the most.
            memory_bytes=psutil.Process().memory_info().rss,
            gpu_bytes=torch.cuda.max_memory_reserved() if on_gpu else 0,
            cpu_share=min(1.0, computed / (trained + scored_for)),
        )


def quick_epoch_seconds(
    configuration: Configuration,
    images: LabelledImages,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    threads: int,
    gpus: float,
    train_images: int,
    validation_images: int,
) -> float:
    """Return about how many seconds an epoch takes here, from half a second of training.

    Args:
        configuration: To measure.
        images: A part of the training images, for a few batches.
        pixels: Mean and standard deviation of the training pixels, one value a channel.
        threads: CPU threads to train with.
        gpus: GPU share of a trial; 0 for the CPU.
        train_images: Trained on in an epoch.
        validation_images: Scored after it.
    """
    import torch

    from data.loader import as_tensors

    device, before = pick_device(gpus), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with TemporaryDirectory(prefix="fashion-search-bench-") as folder:
            bench = Bench(
                slot=0,
                tensors=as_tensors(images, device),
                shape=images.shape,
                pixels=pixels,
                device=device,
                path=Path(folder) / "checkpoint.safetensors",
            )
            found = bench.measure(configuration, _QUICK_SECONDS)
    finally:
        torch.set_num_threads(before)
    epoch = train_images / found.train_per_second + validation_images / found.score_per_second
    return epoch + found.save_seconds
