"""Say how many images may go through a network at once. No torch here."""

import math

from data.images import ImageShape
from model.config import NetworkConfig
from model.geometry import plan_network

MOST_AT_ONCE = 250
"""Images; more outgrow the cache of a CPU."""
MAPS_BYTES = 1 << 30
"""Memory that the maps of one batch may take."""


def bytes_per_image(network: NetworkConfig, shape: ImageShape) -> int:
    """Return the bytes that one image takes inside the network: the largest map, and another.

    Raises:
        ValueError: The network does not fit the images.
    """
    blocks = plan_network(network, shape).blocks
    return max(8 * conv.filters * math.prod(conv.out_size) for block in blocks for conv in block)


def images_at_once(bytes_each: int, most: int = MOST_AT_ONCE) -> int:
    """Return how many images of `bytes_each` inside the network go through it: 1 to `most`."""
    return max(1, min(most, MAPS_BYTES // max(1, bytes_each)))
