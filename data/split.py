"""Split training images into a part to learn from and a part to choose by."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from data.images import DataError


def stratified_split(
    labels: NDArray[np.int64], num_validation: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `num_validation` of the images, each class by its share, and return both parts.

    Returns two sorted int64 arrays of indices into `labels`, training first; together they are all
    of them, once each. A function of the arguments alone. Shares are rounded by largest remainder,
    so that the validation part has exactly `num_validation` images. Raises DataError if either
    part would have no image of some class.
    """
    values, counts = np.unique(labels, return_counts=True)
    if not 1 <= num_validation < len(labels):
        raise DataError(
            f"{num_validation} validation images were asked for, but of {len(labels)} training "
            f"images between 1 and {len(labels) - 1} can be set aside (data.validation_images)"
        )
    quotas = _shares(counts, num_validation)
    for value, count, quota in zip(values, counts, quotas, strict=True):
        if not 0 < quota < count:
            part = "validation" if quota == 0 else "training"
            raise DataError(
                f"with {num_validation} validation images the {part} part has none of label "
                f"{value} ({count} in all); ask for {'more' if quota == 0 else 'fewer'}, or give "
                "that class more images"
            )
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for value, quota in zip(values, quotas, strict=True):
        chosen[generator.permutation(np.flatnonzero(labels == value))[:quota]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def split_fingerprint(data_fingerprint: str, validation_indices: NDArray[np.int64]) -> str:
    """Return the SHA-256 (hex) over the data's fingerprint and which images are set aside."""
    digest = hashlib.sha256(data_fingerprint.encode())
    digest.update(np.sort(validation_indices).astype("<i8").tobytes())
    return digest.hexdigest()


def _shares(counts: NDArray[np.int64], num_drawn: int) -> NDArray[np.int64]:
    """Divide `num_drawn` among classes in proportion to `counts`, by largest remainder."""
    # Whole numbers throughout: a float's rounding could differ between machines.
    quotas, remainders = np.divmod(counts * num_drawn, counts.sum())
    left = num_drawn - int(quotas.sum())
    quotas[np.argsort(-remainders, kind="stable")[:left]] += 1
    return quotas.astype(np.int64)
