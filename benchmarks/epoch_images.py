"""How many images an epoch trains on, where only their speed was written down."""

from __future__ import annotations


def trained_images(images: int, batch_size: int) -> int:
    """Return how many of `images` an epoch of `model.train.fit` trains on.

    The last batch is dropped where it is not full, unless it is the only one.
    """
    return images // batch_size * batch_size if images > batch_size else images
