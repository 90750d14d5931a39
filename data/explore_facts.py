"""Count and measure what a first look at a data set should tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.images import LabelledImages


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFacts:
    """Measure the training images of one class."""

    name: str
    """The class's name."""

    num_train: int
    """Training images of the class."""

    num_test: int | None
    """Test images of the class; None without a test part."""

    mean: float
    """Mean pixel value of its training images, 0 to 255; NaN where there are none."""

    deviation: float
    """Standard deviation of those pixel values."""

    black: float
    """Share of those pixels that are exactly 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin:
    """Name two images with the same pixels."""

    first: int
    """Index of a training image."""

    second: int
    """Index of its copy, in `second_part`."""

    second_part: Literal["train", "test"]
    """Whether the copy is a later training image or a test image."""

    same_label: bool
    """Whether both have the same label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """List exact copies; each image after the first of its kind counts once."""

    within_train: tuple[Twin, ...]
    """Training images that repeat an earlier training image."""

    across: tuple[Twin, ...] | None
    """Test images that are also training images; None without a test part."""


def measure_classes(train: LabelledImages, test: LabelledImages | None) -> tuple[ClassFacts, ...]:
    """Measure each class in turn, in label order."""
    return tuple(
        _measure_class(train, test, label, name) for label, name in enumerate(train.classes)
    )


def find_duplicates(train: LabelledImages, test: LabelledImages | None) -> Duplicates:
    """Find images with exactly the same pixels, by SHA-256, within train and from train to test."""
    first_with: dict[bytes, int] = {}
    for index, digest in enumerate(_digests(train.images)):
        first_with.setdefault(digest, index)
    within = [
        twin for twin in _twins(first_with, train, train, "train") if twin.first != twin.second
    ]
    across = None if test is None else tuple(_twins(first_with, train, test, "test"))
    return Duplicates(within_train=tuple(within), across=across)


def _twins(
    first_with: dict[bytes, int],
    train: LabelledImages,
    other: LabelledImages,
    part: Literal["train", "test"],
) -> Iterator[Twin]:
    for index, digest in enumerate(_digests(other.images)):
        first = first_with.get(digest)
        if first is not None:
            same = bool(train.labels[first] == other.labels[index])
            yield Twin(first=first, second=index, second_part=part, same_label=same)


def _measure_class(
    train: LabelledImages, test: LabelledImages | None, label: int, name: str
) -> ClassFacts:
    pixels = train.images[train.labels == label]
    # From 256 counts: exact, and no float copy of the images is made.
    counts = np.bincount(pixels.reshape(-1), minlength=256)
    values = np.arange(256)
    total = int(counts.sum())
    mean = float(counts @ values / total) if total else float("nan")
    square = float(counts @ values**2 / total) if total else float("nan")
    return ClassFacts(
        name=name,
        num_train=len(pixels),
        num_test=None if test is None else int((test.labels == label).sum()),
        mean=mean,
        deviation=float(np.sqrt(max(square - mean**2, 0.0))) if total else float("nan"),
        black=float(counts[0] / total) if total else float("nan"),
    )


def _digests(images: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.sha256(image.data).digest() for image in images]
