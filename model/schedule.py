"""Move the learning rate, and build the optimizer it drives.

The rate is a pure function of the step and the number of steps, so a resumed training needs no
scheduler state: it cannot drift from one that never stopped.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.config import TrainingConfig
from model.muon import ORTHOGONAL, Muon

WARM_UP_SHARE = 0.25


def learning_rate(
    schedule: Literal["one-cycle", "cosine", "constant"], highest: float, step: int, num_steps: int
) -> float:
    """Return the learning rate of step `step` (from 0) of `num_steps`.

    - "one-cycle": up in a straight line over the first quarter of the steps, then down in a
      straight line; one further step would reach 0. After Smith and Topin (arXiv:1708.07120).
    - "cosine": from `highest` down half a cosine (Loshchilov and Hutter, arXiv:1608.03983).
    - "constant": `highest` throughout.
    """
    if schedule == "constant":
        return highest
    if schedule == "cosine":
        return highest * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
    warm_up = max(1, round(WARM_UP_SHARE * num_steps))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * (num_steps - step) / (num_steps - warm_up + 1)


def build_optimizer(
    model: nn.Module, config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimizer of `config` over the parameters of `model`.

    Weight decay is kept from biases and batch-norm parameters, as is usual (for example in
    He et al., arXiv:1812.01187, section 3.1): those are the parameters of fewer than two
    dimensions.
    """
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    spared = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    # One kernel for all parameters where PyTorch has one; elsewhere it picks its own default.
    fused = True if device.type in ("cpu", "cuda") else None
    if config.optimizer == "muon":
        # Not the classifier: its rows stand for classes and need not be orthogonal.
        last = decayed[-1]
        groups = [
            groups[0] | {"params": [p for p in decayed if p is not last], ORTHOGONAL: True},
            groups[0] | {"params": [last], ORTHOGONAL: False},
            groups[1] | {ORTHOGONAL: False},
        ]
    if config.optimizer != "adamw":
        return (Muon if config.optimizer == "muon" else torch.optim.SGD)(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=fused,
        )
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors: "0.momentum_buffer", "3.exp_avg", ..."""
    state: dict[int, dict[str, Tensor | None]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned.

    Raises:
        ValueError: The tensors belong to another optimizer or another network.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or int(number) >= len(parameters):
            raise ValueError(f"optimizer state {key!r} belongs to no parameter of the network")
        parameter = parameters[int(number)]
        if tensor.dtype != parameter.dtype:
            raise ValueError(
                f"optimizer state {key!r} is of {tensor.dtype}, its parameter of {parameter.dtype}"
            )
        if tensor.shape == parameter.shape:
            # The fused kernels walk parameter and state side by side in memory: the state must be
            # laid out as its parameter is (channels last), not as the file has it.
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif tensor.dim() > 0:
            raise ValueError(
                f"optimizer state {key!r} has shape {tuple(tensor.shape)}, its parameter "
                f"{tuple(parameter.shape)}"
            )
        state.setdefault(int(number), {})[name] = tensor
    if len({frozenset(state.get(index, ())) for index in range(len(parameters))}) > 1:
        raise ValueError("optimizer state is there for some parameters and not for others")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
