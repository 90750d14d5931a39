"""Hold images with their labels, and the one error that this package shows to people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.one_line import OneLineError

# Fashion-MNIST's own names, in label order (Xiao et al., arXiv:1708.07747, table 2).
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class DataError(OneLineError):
    """Say in one line what was given, what is allowed and what to do next."""


class DataUnavailable(DataError):
    """Data that were not found on this machine and could not be downloaded; nothing is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageShape:
    """State what a network must accept and tell apart."""

    channels: int
    """1 (grey) or 3 (red, green, blue)."""

    height: int
    """In pixels."""

    width: int
    """In pixels."""

    num_classes: int
    """Number of classes, at least 2."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` is {self.channels}, but must be 1 (grey) or 3 (colour)")
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"`height` x `width` is {self.height} x {self.width}, but both must be at least 1"
            )
        if self.num_classes < 2:
            raise ValueError(f"`num_classes` is {self.num_classes}, but must be at least 2")


# eq=False: comparing arrays field by field has no single truth value; use fingerprint().
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImages:
    """Keep images, their labels and where they came from; the arrays are never written to."""

    images: NDArray[np.uint8]
    """(N, C, H, W) uint8 in [0, 255], C-contiguous."""

    labels: NDArray[np.int64]
    """(N,) int64 in [0, number of classes)."""

    classes: tuple[str, ...]
    """Class names in label order."""

    name: str
    """"fashion-mnist", "synthetic", or the name of a folder."""

    origin: str
    """For people: the folder it was read from, or "drawn by this program, seed 0"."""

    synthetic: bool = False
    """Whether this program drew the images itself."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"`images` is {_describe(self.images)}, but must be uint8 of 4 axes (N, C, H, W)"
            )
        if not self.images.flags.c_contiguous:
            raise ValueError("`images` must be C-contiguous; use numpy.ascontiguousarray")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"`labels` is {_describe(self.labels)}, but must be int64 of shape "
                f"({self.images.shape[0]},), one for each image"
            )
        if not self.num_images:
            raise DataError(f"{self.origin}: there is no image, but at least 1 is needed")
        if len(self.classes) < 2:
            raise DataError(
                f"{self.origin}: {len(self.classes)} class, but a classifier needs at least 2"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.origin}: labels run from {low} to {high}, but must lie between 0 and "
                f"{len(self.classes) - 1} for {len(self.classes)} classes"
            )
        _ = self.shape  # channels and size are checked where they are declared

    @property
    def num_images(self) -> int:
        """Count the images."""
        return int(self.images.shape[0])

    @property
    def shape(self) -> ImageShape:
        """State the size of one image and the number of classes."""
        _, channels, height, width = self.images.shape
        return ImageShape(
            channels=channels, height=height, width=width, num_classes=len(self.classes)
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over shape, class names, pixels and labels.

        Name and origin are left out: the same content is the same data, wherever it lies.
        """
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(self.images.data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def take(self, indices: NDArray[np.int64]) -> LabelledImages:
        """Copy the images at `indices` (integers in [0, N)), in that order."""
        return LabelledImages(
            images=np.ascontiguousarray(self.images[indices]),
            labels=np.ascontiguousarray(self.labels[indices]),
            classes=self.classes,
            name=self.name,
            origin=self.origin,
            synthetic=self.synthetic,
        )


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
