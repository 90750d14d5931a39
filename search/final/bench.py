"""Train final networks in one process, one by one or several at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.images import ImageShape, LabelledImages
from data.plain_file import open_plain
from model.config import Configuration
from model.train import EpochMetrics

if TYPE_CHECKING:
    import torch

    from model.train import Training

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalModel:
    """One network to retrain from scratch."""

    name: str
    """Folder under final/: `winner-s0`, `seed-32-s0`."""
    group: str
    """`winner`, or the baseline's name; models of a group differ in the seed only."""
    configuration: Configuration
    epochs: int
    """Epochs trained; the schedule may be longer."""
    seed: int
    held_out: int = 0
    """Images held out and measured on, in the race; 0: trained on everything, and kept."""
    split_seed: int = 0
    """Draws the images that are held out, stratified by class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a process trains with."""

    device: torch.device
    classes: tuple[str, ...]
    shape: ImageShape
    fingerprint: str
    """Of the study's images."""
    tensors: tuple[torch.Tensor, torch.Tensor]
    """All images and labels, on the device."""
    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    """Their mean and standard deviation per channel."""

    @classmethod
    def over(cls, everything: LabelledImages, fingerprint: str, device: torch.device) -> Bench:
        """Put all images of a study on a device."""
        from data.loader import as_tensors
        from model.cnn import pixel_statistics

        tensors = as_tensors(everything, device)
        return cls(
            device=device,
            classes=everything.classes,
            shape=everything.shape,
            fingerprint=fingerprint,
            tensors=tensors,
            pixels=pixel_statistics(tensors[0]),
        )


def sha256(path: Path) -> str:
    """Return a file's SHA-256, or an empty string where it cannot be read."""
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def train_one(
    bench: Bench, model: FinalModel, folder: Path
) -> Generator[EpochMetrics, None, dict[str, Any]]:
    """Train one network alone: yield every epoch, return its outcome, keep it in `folder`."""
    from model.train import fit

    course = _Course(bench, model)
    for metrics in fit(course.training, course.train, course.validation, until=model.epochs):
        if not course.go_on(metrics):
            break
        yield metrics
    return course.outcome(folder)


def train_group(
    bench: Bench, models: Sequence[FinalModel], folder: Path
) -> Generator[tuple[str, EpochMetrics], None, list[dict[str, Any]]]:
    """Train networks that can be fused at once: yield (name, epoch), return their outcomes.

    Each is kept in a folder of its name. One that diverges is trained again, alone: whether it is
    in the record as diverged must not hang on the numbers of those beside it. So are all where the
    device has no room for them at once: how much they need is only estimated.
    """
    import torch

    courses: dict[str, _Course] = {}
    fit_in = len(models) > 1
    if fit_in:
        courses = {model.name: _Course(bench, model) for model in models}
        try:
            yield from _train_fused(list(courses.values()))
        except torch.OutOfMemoryError:
            fit_in = False
    outcomes = []
    for model in models:
        course = courses.pop(model.name, None)
        if course is not None and fit_in and not course.diverged:
            outcomes.append(course.outcome(folder / model.name))
            continue
        told = 0 if course is None else course.epochs
        epochs = train_one(bench, model, folder / model.name)
        outcomes.append((yield from _named(model.name, epochs, told)))
    return outcomes


def _named(
    name: str, epochs: Generator[EpochMetrics, None, dict[str, Any]], told: int
) -> Generator[tuple[str, EpochMetrics], None, dict[str, Any]]:
    """Yield the epochs after the first `told`, which somebody has been told of already."""
    while True:
        try:
            metrics = next(epochs)
        except StopIteration as end:
            outcome: dict[str, Any] = end.value
            return outcome
        if metrics.epoch > told:
            yield name, metrics


def _train_fused(courses: list[_Course]) -> Iterator[tuple[str, EpochMetrics]]:
    from model.fused import fit_fused

    going = courses
    while going:
        epochs = fit_fused(
            [course.training for course in going],
            [course.train for course in going],
            [course.validation for course in going],
            until=going[0].model.epochs,
        )
        for rows in epochs:
            for course, metrics in zip(going, rows, strict=True):
                # The seconds of all together: of each, its part.
                of_one = replace(metrics, seconds=metrics.seconds / len(rows))
                if course.go_on(of_one):
                    yield course.model.name, of_one
            if any(course.diverged for course in going):
                break
        else:
            return
        going = [course for course in going if not course.diverged]


class _Course:
    """One final network's training, and what is known of how it goes."""

    def __init__(self, bench: Bench, model: FinalModel) -> None:
        from model.train import Training

        self.model = model
        self.train, (mean, std) = bench.tensors, bench.pixels
        self.validation: tuple[torch.Tensor, torch.Tensor] | None = None
        if model.held_out:
            self.train, self.validation, (mean, std) = _redraw(bench, model)
        self.training: Training = Training.start(
            model.configuration, bench.shape, mean, std, model.seed, bench.device
        )
        self.diverged = False
        self.epochs = 0
        """Gone well so far."""
        self._bench = bench
        self._seconds = 0.0
        self._last: EpochMetrics | None = None

    def go_on(self, metrics: EpochMetrics) -> bool:
        """Take note of an epoch; False where the training has diverged in it."""
        self._last = metrics
        self.diverged = not math.isfinite(metrics.train_loss)
        if not self.diverged:
            self.epochs = metrics.epoch
            self._seconds += metrics.seconds
        return not self.diverged

    def outcome(self, folder: Path) -> dict[str, Any]:
        """Return what became of it; keep the network in `folder` if it was trained for good."""
        from model.checkpoint import save_model

        metrics, fingerprint = self._last, self._bench.fingerprint
        assert metrics is not None
        if self.diverged:
            return {"diverged_at": metrics.epoch, "fingerprint": fingerprint}
        if self.model.held_out:
            return {
                "val_accuracy": metrics.val_accuracy,
                "fingerprint": fingerprint,
                "seconds": self._seconds,
            }
        folder.mkdir(exist_ok=True)
        path = folder / MODEL_FILE
        # Without times: trained again it is the same file, and its test number stands.
        told = asdict(replace(metrics, images_per_second=0.0, seconds=0.0))
        save_model(self.training, path, classes=self._bench.classes, metrics=told)
        return {
            "model_sha256": sha256(path),
            "fingerprint": fingerprint,
            "train_accuracy": metrics.train_accuracy,
            "train_loss": metrics.train_loss,
            "seconds": self._seconds,
        }


def _redraw(bench: Bench, model: FinalModel) -> tuple[Any, Any, Any]:
    """Return a part to train on, the rest to measure on, and the pixel statistics of the first."""
    import torch

    from data.split import stratified_split
    from model.cnn import pixel_statistics

    pixels, labels = bench.tensors
    parts = stratified_split(labels.cpu().numpy(), model.held_out, model.split_seed)
    train, validation = (
        (pixels[index], labels[index])
        for index in (torch.from_numpy(part).to(pixels.device) for part in parts)
    )
    return train, validation, pixel_statistics(train[0])
