"""Lay the tensors of several equal networks out in one, so that one kernel serves them all.

Axes: M networks side by side, P numbers of one network.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Layout:
    """Know where each tensor of M equal networks lies in one flat tensor of M x P numbers.

    Tensor after tensor, and within each network after network; four-dimensional ones channels
    last. So both "this tensor of all networks, joined along the first axis" (what a grouped
    convolution and a batch norm take) and "this tensor of this network" are views, and an
    optimizer's step is a few kernels over the flat tensor, however many tensors there are.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], networks: int) -> None:
        """Take the shapes of one network's tensors, by name, and M."""
        self._shapes = dict(shapes)
        self._networks = networks
        self._starts: dict[str, int] = {}
        self._numel = 0
        for name, shape in self._shapes.items():
            self._starts[name] = self._numel
            self._numel += networks * shape.numel()

    def pack(self, tensors: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Copy the tensors of each network, by name, into a new flat tensor (M x P,)."""
        if not self._shapes:
            return torch.empty(0)
        return flatten([of[name].detach() for name in self._shapes for of in tensors])

    def joined(self, flat: Tensor) -> dict[str, Tensor]:
        """Return a view of each tensor for all networks: (M x first axis, ...)."""
        return {
            name: self._view(flat, name, 0, torch.Size((self._networks * shape[0], *shape[1:])))
            for name, shape in self._shapes.items()
        }

    def of(self, flat: Tensor, network: int) -> dict[str, Tensor]:
        """Return a view of each tensor of one network, in its own shape."""
        return {
            name: self._view(flat, name, network * shape.numel(), shape)
            for name, shape in self._shapes.items()
        }

    def matrices(self, flat: Tensor, name: str) -> Tensor:
        """Return a view of a tensor as a matrix of each network: (M, first axis, all others).

        The columns are in the order of memory, which for convolutions is not that of their shape.
        """
        shape, start = self._shapes[name], self._starts[name]
        part = flat[start : start + self._networks * shape.numel()]
        return part.view(self._networks, shape[0], -1)

    def spread(self, values: Sequence[float], factors: Mapping[str, float] | None = None) -> Tensor:
        """Return a number of each network (M,) at every place (M x P,) float32 on the CPU.

        Multiplied by its tensor's factor, where there are any: 0 for tensors that have none.
        """
        given = torch.tensor(values, dtype=torch.float32)
        parts = [
            given.repeat_interleave(shape.numel())
            * (1.0 if factors is None else factors.get(name, 0.0))
            for name, shape in self._shapes.items()
        ]
        return torch.cat(parts) if parts else torch.empty(0)

    def owners(self) -> Tensor:
        """Return the number of the network that each place belongs to, (M x P,) int64."""
        each = torch.arange(self._networks)
        parts = [each.repeat_interleave(shape.numel()) for shape in self._shapes.values()]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _view(self, flat: Tensor, name: str, offset: int, shape: torch.Size) -> Tensor:
        start = self._starts[name] + offset
        part = flat[start : start + shape.numel()]
        if len(shape) != 4:
            return part.view(shape)
        outer, channels, height, width = shape
        return part.view(outer, height, width, channels).permute(0, 3, 1, 2)


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors one after another into a new flat one, in the order that a layout has."""
    ordered = [t.permute(0, 2, 3, 1) if t.dim() == 4 else t for t in tensors]
    return torch.cat([t.reshape(-1) for t in ordered])
