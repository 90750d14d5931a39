"""Serve shuffled, augmented batches from images that stay in memory on the device.

Axes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.images import LabelledImages

# Random erasing (Zhong et al., arXiv:1708.04896, section 3.2): the rectangle's share of the image,
# and its height divided by its width, s_l..s_h and r_1..1/r_1 there.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """State how training images are varied; the default leaves them alone."""

    flip: bool = False
    """Mirror left and right with probability 1/2."""

    alternate: bool = False
    """Draw that once an image, and mirror it in every other epoch from there (needs `flip`).

    Two epochs then show both sides of every image, where two draws show one of them twice as often
    as not (Jordan, arXiv:2404.00498, section 3.6).
    """

    shift: int = 0
    """Move each way by up to this many pixels, evenly; what comes in is 0 (black)."""

    erase: float = 0.0
    """Probability of filling one random rectangle with random pixels."""

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 64:
            raise ValueError(f"`shift` is {self.shift}, but must be between 0 and 64 pixels")
        if self.alternate and not self.flip:
            raise ValueError("`alternate` is true without `flip`, which it is a form of: set both")
        if not 0.0 <= self.erase <= 1.0:
            raise ValueError(f"`erase` is {self.erase}, but must be between 0 and 1")

    @property
    def changes_anything(self) -> bool:
        """Tell whether any image may come out other than it went in."""
        return self.flip or self.shift > 0 or self.erase > 0


def as_tensors(data: LabelledImages, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Put images (N, C, H, W) uint8 and labels (N,) int64 on `device`.

    On the CPU the tensors share the arrays' memory, also where that is read-only (Ray's object
    store maps it so for all trials of a node): writing to them would end the process.
    """
    with warnings.catch_warnings():
        # Torch warns that writing is undefined; nothing in this project writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    return images.to(device), labels.to(device)


class Loader:
    """Cut images into batches, in an order and with variations that (seed, epoch) decide.

    All random numbers are drawn on the CPU and moved to the device once an epoch: CPU and GPU see
    the same batches, and an epoch run after a resume is the epoch that would have come.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int | None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
    ) -> None:
        """Take images (N, C, H, W) uint8 and labels (N,) int64 on one device.

        `seed` None keeps the images in order. `drop_last` leaves out a last batch that is not full.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"`images` is {images.dtype} of shape {tuple(images.shape)} for {len(labels)} "
                "labels, but must be uint8 (N, C, H, W) for N labels"
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}, but must be at least 1")
        if drop_last and len(images) < batch_size:
            raise ValueError(
                f"`batch_size` is {batch_size}, but there are only {len(images)} images, and "
                "`drop_last` would leave none"
            )
        self._augmentation = augmentation or Augmentation()
        if seed is None and self._augmentation.changes_anything:
            raise ValueError("`seed` is None, but augmentation needs a seed to be repeatable")
        self._images = images
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._drop_last = drop_last

    @property
    def num_batches(self) -> int:
        """Count the batches of an epoch."""
        exact = len(self._images) / self._batch_size
        return math.floor(exact) if self._drop_last else math.ceil(exact)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each batch of epoch number `epoch` (at least 0): images uint8 and labels int64."""
        if self._seed is None:
            yield from self._in_order()
            return
        # Two numbers become one seed by NumPy's hash: seed + epoch would make neighbours alike.
        mixed = int(np.random.SeedSequence([self._seed, epoch]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(mixed >> 1)
        device = self._images.device
        order = torch.randperm(len(self._images), generator=generator).to(device)
        varied = _EpochVariation(self._augmentation, self._images, self._batch_size, generator)
        if self._augmentation.flip and self._augmentation.alternate:
            varied.flipped = (self._first_flips()[order] + epoch % 2) % 2
        for start in range(0, self.num_batches * self._batch_size, self._batch_size):
            chosen = order[start : start + self._batch_size]
            # index_select copies: the shared images are never written to.
            images = self._images.index_select(0, chosen)
            yield varied.apply(images, start), self._labels.index_select(0, chosen)

    def _first_flips(self) -> Tensor:
        """Draw for each image (N, 1, 1, 1) uint8 whether it is mirrored in even epochs."""
        assert self._seed is not None
        mixed = int(np.random.SeedSequence([self._seed]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(mixed >> 1)
        flips = torch.randint(
            0, 2, (len(self._images), 1, 1, 1), generator=generator, dtype=torch.uint8
        )
        return flips.to(self._images.device)

    def _in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.num_batches * self._batch_size, self._batch_size):
            end = start + self._batch_size
            yield self._images[start:end], self._labels[start:end]


class _EpochVariation:
    """Hold one epoch's random numbers for all images, and apply a batch's share of them."""

    def __init__(
        self,
        augmentation: Augmentation,
        images: Tensor,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        num_images, channels, height, width = images.shape
        device = images.device
        self._shift = augmentation.shift
        self.flipped: Tensor | None = None
        self._offsets: Tensor | None = None
        self._rectangles: Tensor | None = None
        if augmentation.flip:
            flipped = torch.randint(0, 2, (num_images, 1, 1, 1), generator=generator)
            self.flipped = flipped.to(torch.uint8).to(device)
        if augmentation.shift:
            span = 2 * augmentation.shift + 1
            self._offsets = torch.randint(0, span, (2, num_images), generator=generator).to(device)
        if augmentation.erase:
            rectangles = _draw_rectangles(augmentation.erase, num_images, height, width, generator)
            self._rectangles = rectangles.to(device)
            # One batch of noise serves the whole epoch: order and rectangle differ in each batch.
            noise = torch.randint(
                0,
                256,
                (batch_size, channels, height, width),
                generator=generator,
                dtype=torch.uint8,
            )
            self._noise = noise.to(device)

    def apply(self, images: Tensor, start: int) -> Tensor:
        """Vary a batch (B, C, H, W) whose first image is number `start` of the epoch."""
        part = slice(start, start + len(images))
        if self.flipped is not None:
            images = _chosen(self.flipped[part], images.flip(-1), images)
        if self._offsets is not None:
            images = _shifted(images, self._offsets[:, part], self._shift)
        if self._rectangles is not None:
            inside = _inside(self._rectangles[:, part], images)
            images = _chosen(inside, self._noise[: len(images)], images)
        return images


def _chosen(mask: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    """Take `there` where `mask` (uint8) is 1 and `elsewhere` where it is 0.

    uint8 wraps around, so the sum is exact; torch.where with a broadcast mask takes 4 times as long
    on a CPU.
    """
    return elsewhere + mask * (there - elsewhere)


def _shifted(images: Tensor, offsets: Tensor, shift: int) -> Tensor:
    """Cut from each zero-padded image the window at its own offset (2, B) in [0, 2 * shift]."""
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, span, span, H, W), no copy
    each = torch.arange(batch, device=images.device)
    return windows[each, :, offsets[0], offsets[1]]  # (B, C, H, W)


def _draw_rectangles(
    probability: float, num_images: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Draw top, bottom, left, right (4, N, 1) int64 for each image; an empty one if not erased.

    The paper draws again until the rectangle fits; here its sides are cut to the image instead.
    """
    hit, share, tall, down, across = torch.rand(5, num_images, generator=generator)
    low, high = _ERASED_AREA
    area = (low + (high - low) * share) * height * width
    log_low, log_high = (math.log(value) for value in _ERASED_ASPECT)
    aspect = torch.exp(log_low + (log_high - log_low) * tall)
    rows = (area * aspect).sqrt().round().clamp(1, height)
    columns = (area / aspect).sqrt().round().clamp(1, width)
    rows = rows * (hit < probability)
    top = (down * (height - rows + 1)).floor()
    left = (across * (width - columns + 1)).floor()
    return torch.stack([top, top + rows, left, left + columns]).long().unsqueeze(-1)


def _inside(rectangles: Tensor, images: Tensor) -> Tensor:
    """Mark with 1 the pixels (B, 1, H, W) uint8 in each image's rectangle (4, B, 1)."""
    top, bottom, left, right = rectangles
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    in_rows = ((top <= y) & (y < bottom)).to(torch.uint8)  # (B, H)
    in_columns = ((left <= x) & (x < right)).to(torch.uint8)  # (B, W)
    both: Tensor = in_rows.unsqueeze(2) & in_columns.unsqueeze(1)
    return both.unsqueeze(1)
