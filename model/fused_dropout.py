"""Drop elements of several networks at once, at each one's own rate.

Axes: M networks, N images, F channels or features, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.dropout import Dropout


class Draws:
    """Draw one epoch's masks; to be used where the default generator's state may be changed.

    On a CPU each network drops what it drops when trained alone: its masks come from
    `model.dropout`, and from its own seed. On other devices one draw serves all networks, so the
    masks depend on which networks are trained together (and repeat for the same ones).
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """Take one seed a network."""
        self._states: list[Tensor] = []
        self._generator: torch.Generator | None = None
        if device.type == "cpu":
            for seed in seeds:
                torch.default_generator.manual_seed(seed)
                self._states.append(torch.get_rng_state())
        else:
            mixed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
            self._generator = torch.Generator(device).manual_seed(mixed >> 1)

    def maps(self, x: Tensor, dropouts: "Dropouts") -> Tensor:
        """Drop elements or channels of maps (N, M x F, H, W), channels last."""
        if not dropouts.any:
            return x
        if self._generator is not None:
            per_network = x.shape[1] // len(dropouts.each)
            rates = dropouts.rates.repeat_interleave(per_network)[None, :, None, None]
            return drop_together(x, rates, self._generator, whole_channels=dropouts.channels)
        parts = [
            part.contiguous(memory_format=torch.channels_last)
            for part in x.chunk(len(dropouts.each), dim=1)
        ]
        return torch.cat(self._one_by_one(parts, dropouts), dim=1)

    def features(self, x: Tensor, dropouts: "Dropouts") -> Tensor:
        """Drop elements of features (M, N, F)."""
        if not dropouts.any:
            return x
        if self._generator is not None:
            return drop_together(x, dropouts.rates[:, None, None], self._generator)
        parts = [part.contiguous() for part in x.unbind()]
        return torch.stack(self._one_by_one(parts, dropouts))

    def _one_by_one(self, parts: Sequence[Tensor], dropouts: "Dropouts") -> list[Tensor]:
        dropped = []
        for number, (part, dropout) in enumerate(zip(parts, dropouts.each, strict=True)):
            if dropout is not None:
                torch.set_rng_state(self._states[number])
                part = dropout(part)
                self._states[number] = torch.get_rng_state()
            dropped.append(part)
        return dropped


class Dropouts:
    """Hold the dropout at one place of several networks; a network may have none there."""

    def __init__(self, each: Sequence[Dropout | None], device: torch.device) -> None:
        """Take the networks' own modules; those that are there drop the same kind."""
        there = [dropout for dropout in each if dropout is not None]
        self.each = tuple(each)
        self.any = bool(there)
        self.channels = any(dropout.whole_channels for dropout in there)
        rates = [0.0 if dropout is None else dropout.rate for dropout in each]
        # On the device from the start: moved at every step, it would make the device wait.
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device)


def drop_together(
    x: Tensor, rates: Tensor, generator: torch.Generator, *, whole_channels: bool = False
) -> Tensor:
    """Zero elements of x with probability `rates` (which broadcasts to x); scale the others up.

    `whole_channels` drops all of (N, F, H, W)'s H x W at once.
    """
    # float32 whatever x is: bfloat16 has 256 levels in [0, 1) where it matters.
    like = x[:, :, :1, :1] if whole_channels else x
    drawn = torch.empty_like(like, dtype=torch.float32).uniform_(generator=generator)
    mask = (drawn >= rates) / (1.0 - rates)
    return x * mask.to(x.dtype)
