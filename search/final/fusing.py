"""Which final networks are trained at once in one process: those that a GPU is better filled by."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from data.images import ImageShape
from model.fused import fusion_key
from search.final.bench import FinalModel
from search.machine.gpu_need import training_bytes
from search.machine.slots import Slots

_MOST_BYTES = 4 << 30
"""Taken by networks trained at once, of a whole GPU; networks that need more fill one by
themselves."""
_MOST_NETWORKS = 16


def fused_together(slots: Slots) -> int:
    """Return how many networks a slot trains at once at most; 1 without a GPU.

    A single network keeps a CPU core busy.
    """
    return _MOST_NETWORKS if slots.gpus > 0 else 1


def pack(
    models: Sequence[FinalModel],
    slots: Slots,
    shape: ImageShape,
    *,
    together: int,
) -> list[list[FinalModel]]:
    """Put networks that can be fused together, up to `together` at once; every one is in one list.

    As many lists as there are slots, or more, if there are so many networks; as long as their
    estimated memory allows.
    """
    alike: dict[Hashable, list[FinalModel]] = {}
    for model in models:
        key = fusion_key(model.configuration)
        # One that cannot be fused is alone, as its name is.
        shared = model.name if key is None else (key, model.epochs, model.held_out)
        alike.setdefault(shared, []).append(model)
    share = math.ceil(len(models) / slots.count)
    packed: list[list[FinalModel]] = []
    for of_kind in alike.values():
        each = training_bytes(of_kind[0].configuration, shape)
        room = int(_MOST_BYTES * (slots.gpus or 1.0) / each)
        pieces = math.ceil(len(of_kind) / max(1, min(together, share, room)))
        packed += [of_kind[piece::pieces] for piece in range(pieces)]
    return packed
