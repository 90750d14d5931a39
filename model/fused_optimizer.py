"""Step the weights of several networks at once, each at its own rates.

Axes: M networks, P weights of one network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.fused_layout import Layout
from model.muon import MATRIX_SHARE, ORTHOGONAL, orthogonalised
from model.train import Training

_STATE = {
    "sgd": ("momentum_buffer",),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "muon": ("momentum_buffer",),
}

OPTIMIZERS = tuple(_STATE)
"""Those that can step several networks at once."""


class FusedOptimizer:
    """Take the steps of `torch.optim.SGD` (Nesterov), `AdamW` or `model.muon` for M networks.

    The same arithmetic, with a number of each network at every weight in place of one number: no
    loop over networks or tensors, but for Muon's matrices, which are made orthogonal tensor after
    tensor. As `model.schedule` has it, weight decay is kept from tensors of fewer than two
    dimensions.
    """

    def __init__(self, trainings: Sequence[Training], layout: Layout, flat: Tensor) -> None:
        """Take over the state of the trainings' own optimizers; `flat` (M x P,) is stepped."""
        recipes = [training.configuration.training for training in trainings]
        self._trainings = tuple(trainings)
        self._layout = layout
        self._flat = flat
        self._kind = recipes[0].optimizer
        self._owners = layout.owners().to(flat.device)
        shapes = {name: p.shape for name, p in trainings[0].model.named_parameters()}
        self._matrices = _matrices(trainings[0])
        decays = [recipe.weight_decay for recipe in recipes]
        decayed = {
            name: 1.0
            for name, shape in shapes.items()
            if len(shape) >= 2 and name not in self._matrices
        }
        self._decay = layout.spread(decays, decayed).to(flat.device)
        momenta = [recipe.momentum for recipe in recipes]
        self._momentum = layout.spread(momenta).to(flat.device)
        if self._kind == "muon":
            lengths = {name: self._matrices.get(name, 1.0) for name in shapes}
            self._length = layout.spread([1.0] * len(trainings), lengths).to(flat.device)
            shrunk = dict.fromkeys(self._matrices, MATRIX_SHARE)
            self._shrinkage = layout.spread(decays, shrunk).to(flat.device)
        self._state = {
            name: layout.pack([_state_of(training, name) for training in trainings])
            for name in _STATE[self._kind]
        }
        # float64: 1 - 0.999 has five digits in float32, and the first steps divide by it.
        taken = [_steps_taken(training) for training in trainings]
        self._taken = torch.tensor(taken, dtype=torch.float64, device=flat.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, rates: Tensor) -> None:
        """Step by the gradient (M x P,), which is used up, at learning rates (M,) float32."""
        rate = rates.index_select(0, self._owners)
        if self._kind == "sgd":
            self._flat.addcmul_(self._direction(gradient), rate, value=-1)
        elif self._kind == "muon":
            self._step_muon(gradient, rate)
        else:
            self._step_adamw(gradient, rate)

    def write_back(self, rates: Sequence[float]) -> None:
        """Give the trainings' own optimizers their state, and the last step's learning rates."""
        steps = self._taken.tolist()
        for number, training in enumerate(self._trainings):
            optimizer = training.optimizer
            for group in optimizer.param_groups:
                group["lr"] = rates[number]
            # Plain descent keeps nothing.
            plain = self._kind != "adamw" and training.configuration.training.momentum == 0
            kept = {name: self._layout.of(flat, number) for name, flat in self._state.items()}
            for name, parameter in training.model.named_parameters():
                if plain:
                    continue
                # Laid out in memory as the parameter is: PyTorch's fused steps need that.
                state: dict[str, Any] = {
                    key: torch.empty_like(parameter.detach()).copy_(of[name])
                    for key, of in kept.items()
                }
                if self._kind == "adamw":
                    state["step"] = torch.tensor(
                        steps[number], dtype=torch.float32, device=parameter.device
                    )
                optimizer.state[parameter] = state

    def _direction(self, gradient: Tensor) -> Tensor:
        """Return where Nesterov's momentum leads, in place of the gradient."""
        gradient.addcmul_(self._flat, self._decay)
        moved = self._state["momentum_buffer"].mul_(self._momentum).add_(gradient)
        return gradient.addcmul_(moved, self._momentum)

    def _step_muon(self, gradient: Tensor, rate: Tensor) -> None:
        direction = self._direction(gradient)
        for name in self._matrices:
            matrices = self._layout.matrices(direction, name)
            matrices.copy_(orthogonalised(matrices))
        self._flat.mul_(1 - rate * self._shrinkage)
        self._flat.addcmul_(direction, rate * self._length, value=-1)

    def _step_adamw(self, gradient: Tensor, rate: Tensor) -> None:
        group = self._trainings[0].optimizer.param_groups[0]
        (beta1, beta2), eps = group["betas"], group["eps"]
        self._taken += 1
        first = (1 - beta1**self._taken).float().index_select(0, self._owners)
        second = (1 - beta2**self._taken).sqrt().float().index_select(0, self._owners)
        self._flat.mul_(1 - rate * self._decay)
        mean = self._state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = self._state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._flat.addcdiv_(mean * rate / first, square.sqrt().div_(second).add_(eps), value=-1)


def _matrices(training: Training) -> dict[str, float]:
    """Return the parameters that Muon makes orthogonal steps of, and these steps' length.

    As a multiple of the learning rate; nothing where there is another optimizer.
    """
    groups = training.optimizer.param_groups
    chosen = {id(p) for group in groups if group.get(ORTHOGONAL) for p in group["params"]}
    return {
        name: MATRIX_SHARE * max(1.0, p.shape[0] / p[0].numel()) ** 0.5
        for name, p in training.model.named_parameters()
        if id(p) in chosen
    }


def _state_of(training: Training, key: str) -> dict[str, Tensor]:
    """Return one kind of state by parameter; zeros where there is none, as optimizers begin."""
    state = training.optimizer.state
    return {
        name: state[parameter][key]
        if state.get(parameter, {}).get(key) is not None
        else torch.zeros_like(parameter)
        for name, parameter in training.model.named_parameters()
    }


def _steps_taken(training: Training) -> float:
    """Return how many steps AdamW has counted."""
    for state in training.optimizer.state.values():
        if "step" in state:
            return float(state["step"])
    return 0.0
