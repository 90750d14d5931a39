"""Seeds: every random choice of a study has one of its own, derived from the study's."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed in [0, 2^31) that depends on `seed` and every label."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
