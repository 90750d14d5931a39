"""Average the weights of a network while it is trained.

As in Polyak and Juditsky (SIAM J. Control Optim. 30, 1992), with weights that decay: late steps
count for most. PyTorch's `AveragedModel` gives the weights of the first step a share of
decay ** steps, which is most of the average in short trainings, and makes a GPU wait at every step.
"""

import copy

import torch
from torch import Tensor, nn


def decay_at(decay: float, step: int) -> float:
    """Return the decay of step `step` (from 1): at first less, so that no early weights stay.

    (1 + t) / (10 + t) until that is `decay`, as TensorFlow's ExponentialMovingAverage has it.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Holds a copy of a network whose weights follow those of the network itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Take a decay in (0, 1): the share that the average keeps of itself at a step."""
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Let the weights after another step into the average, the statistics of batch norm too."""
        self.steps += 1
        kept, new = _tensors(self.network), _tensors(network)
        # Statistics that belong to other weights would not fit the average.
        share = 1.0 - decay_at(self.decay, self.steps)
        torch._foreach_lerp_(
            [t for t in kept if t.is_floating_point()],
            [t for t in new if t.is_floating_point()],
            share,
        )
        for ours, theirs in zip(kept, new, strict=True):
            if not ours.is_floating_point():  # a count
                ours.copy_(theirs)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
