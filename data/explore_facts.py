"""Count and measure what a first look at a data set should tell."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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
    """Name two images with the same pixels: `second` is in `second_part` ("train" or "test")."""

    first: int
    """Index of a training image."""

    second: int
    """Index of its copy."""

    second_part: str
    """"train" (a later training image) or "test"."""


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
    within: list[Twin] = []
    for index, digest in enumerate(_digests(train.images)):
        first = first_with.setdefault(digest, index)
        if first != index:
            within.append(Twin(first=first, second=index, second_part="train"))
    if test is None:
        return Duplicates(within_train=tuple(within), across=None)
    across = [
        Twin(first=first_with[digest], second=index, second_part="test")
        for index, digest in enumerate(_digests(test.images))
        if digest in first_with
    ]
    return Duplicates(within_train=tuple(within), across=tuple(across))


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
