"""Muon: gradient descent in which every step of a weight matrix is orthogonal.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). PyTorch's own
`torch.optim.Muon` takes matrices only; here convolutions are taken as matrices of filters, and all
other parameters go to `torch.optim.SGD` in the same step, so that one optimizer drives a network.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.precision import resolve_precision

ORTHOGONAL = "orthogonal"
"""Key of a parameter group, true where its steps are made orthogonal."""
MATRIX_SHARE = 0.1
"""Learning rate of the matrices divided by that of the rest: their steps have a fixed length."""
# Of the quintic iteration, as published: fast towards 1 for small singular values, which end up
# between 0.7 and 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.SGD):
    """Step the parameters of groups marked `ORTHOGONAL` by Muon, the others by SGD.

    Weight decay is decoupled for the former: a step's length says nothing of the gradient's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a gradient that a matrix was moved by is gone afterwards.

        Raises:
            ValueError: A closure is given, which this optimizer has no use for.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        for group in self.param_groups:
            if group[ORTHOGONAL]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_matrix(parameter, parameter.grad, group)
                        parameter.grad = None  # SGD leaves it alone
        super().step()
        return None

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = gradient
        if group["momentum"]:  # without, SGD keeps no state either
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            moved = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
            direction = gradient.add(moved, alpha=group["momentum"])
        rate = group["lr"] * MATRIX_SHARE
        parameter.mul_(1 - rate * group["weight_decay"])
        step = orthogonalised(direction.flatten(1)).view(parameter.shape)
        # So that a step moves an output by as much whatever the shape of the matrix.
        tall = max(1.0, parameter.shape[0] / direction[0].numel()) ** 0.5
        parameter.add_(step, alpha=-rate * tall)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return about the nearest matrices (..., m, n) with orthonormal rows or columns, float32.

    Five iterations of Newton and Schulz; in bfloat16, as published, where the hardware has it: the
    steps need no more. Whatever precision the network is computed in.
    """
    rows, columns = matrices.shape[-2:]
    precision = resolve_precision("auto", matrices.device)
    x = matrices.reshape(-1, rows, columns)
    x = (x.mT if rows > columns else x).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        # A sum with a product in one operation: one rounding less, one kernel in place of three.
        polynomial = torch.baddbmm(square, square, square, beta=_B, alpha=_C)
        x = torch.baddbmm(x, polynomial, x, beta=_A)
    found: Tensor = (x.mT if rows > columns else x).float()
    return found.reshape(matrices.shape)
