"""Save and load networks: to go on training them, or to use them. Nothing is ever unpickled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.images import ImageShape
from data.one_line import is_text
from model.cnn import CNN
from model.config import Configuration
from model.geometry import network_cost
from model.schedule import optimizer_tensors, restore_optimizer
from model.tensor_file import CheckpointError, read_tensors, write_tensors
from model.train import Training

__all__ = [
    "CheckpointError",
    "LoadedModel",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
    "save_model",
]

_AVERAGED_STEPS = "averaged_steps"
# What a header of any JSON values and tensors of any kind can lead to.
_UNUSABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """Hold a network read from a file, in evaluation mode, with what is known of it."""

    model: CNN
    """The network."""
    configuration: Configuration
    """What was trained."""
    shape: ImageShape
    """Of the images it takes."""
    classes: tuple[str, ...]
    """Their names, in the order of the logits."""
    seed: int
    """Of its training."""
    epoch: int
    """Epochs it was trained for."""
    metrics: dict[str, Any]
    """What the writer wished to say of it; JSON values."""


def save_checkpoint(training: Training, path: Path, metrics: Mapping[str, Any]) -> None:
    """Write all that `fit` needs to go on as if it had never stopped.

    `metrics` are JSON values; not-a-number is kept.
    """
    state = {f"optimizer.{key}": t for key, t in optimizer_tensors(training.optimizer).items()}
    if training.average is not None:
        averaged = training.average.network.state_dict()
        state |= {f"average.{key}": tensor for key, tensor in averaged.items()}
        state[_AVERAGED_STEPS] = torch.tensor(training.average.steps)
    header = {"kind": "checkpoint", "metrics": dict(metrics)}
    write_tensors(path, _describe(training) | header, _weights(training.model) | state)


def save_model(
    trained: Training | LoadedModel,
    path: Path,
    *,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
) -> None:
    """Write the network alone, with the names of its classes in the order of the logits."""
    header = {"kind": "model", "classes": list(classes), "metrics": dict(metrics)}
    network = trained.network if isinstance(trained, Training) else trained.model
    write_tensors(path, _describe(trained) | header, _weights(network))


def load_checkpoint(path: Path, device: torch.device | str) -> tuple[Training, dict[str, Any]]:
    """Return the training and the metrics saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or written by a newer version.
    """
    header, tensors = _read(path, "checkpoint")
    try:
        training = _rebuild(header, tensors, torch.device(device))
        restore_optimizer(training.optimizer, _below("optimizer.", tensors))
        if training.average is not None:
            _load_weights(training.average.network, _below("average.", tensors))
            training.average.steps = int(tensors[_AVERAGED_STEPS])
        return training, dict(header["metrics"])
    except torch.OutOfMemoryError:
        raise  # of the GPU: the file is sound
    except _UNUSABLE as error:
        raise _unusable(path, error) from error


def load_model(path: Path, device: torch.device | str) -> LoadedModel:
    """Return the network that `save_model` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or written by a newer version.
    """
    header, tensors = _read(path, "model")
    try:
        training = _rebuild(header, tensors, torch.device(device))
        classes = tuple(header["classes"])
        named = all(isinstance(name, str) and is_text(name) for name in classes)
        if not named or len(classes) != training.shape.num_classes:
            raise ValueError(f"classes {classes} do not name {training.shape.num_classes} logits")
        return LoadedModel(
            model=training.model.eval(),
            configuration=training.configuration,
            shape=training.shape,
            classes=classes,
            seed=training.seed,
            epoch=training.epoch,
            metrics=dict(header["metrics"]),
        )
    except torch.OutOfMemoryError:
        raise  # of the GPU: the file is sound
    except _UNUSABLE as error:
        raise _unusable(path, error) from error


def _describe(trained: Training | LoadedModel) -> dict[str, Any]:
    """Return what a network is rebuilt from, as JSON values."""
    return {
        "configuration": trained.configuration.to_dict(),
        "shape": asdict(trained.shape),
        "mean": trained.model.mean.flatten().tolist(),
        "std": trained.model.std.flatten().tolist(),
        "seed": trained.seed,
        "epoch": trained.epoch,
    }


def _weights(model: CNN) -> dict[str, Tensor]:
    return {f"model.{key}": tensor for key, tensor in model.state_dict().items()}


def _rebuild(header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Training:
    """Return the training that a file speaks of. Raises one of _UNUSABLE where that cannot be."""
    configuration = Configuration.from_dict(header["configuration"])
    shape = ImageShape(**header["shape"])
    weights = _below("model.", tensors)
    numbers = [*asdict(shape).values(), header["seed"], header["epoch"]]
    if not all(type(number) is int for number in numbers):
        raise ValueError("its shape, seed and epoch are not all whole numbers")
    if not 0 <= header["epoch"] <= configuration.training.epochs:
        raise ValueError(f"epoch {header['epoch']} of {configuration.training.epochs}")
    # Before anything is built: a header can speak of a network that no memory holds.
    needed = network_cost(configuration.network, shape).parameters
    held = sum(tensor.numel() for tensor in weights.values())
    if needed > held:
        raise ValueError(f"its network has {needed} parameters, but it holds {held} numbers")
    training = Training.start(
        configuration, shape, header["mean"], header["std"], header["seed"], device
    )
    _load_weights(training.model, weights)
    training.epoch = header["epoch"]
    return training


def _load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    odd = sorted(expected.keys() ^ weights.keys())
    if odd:
        key = odd[0]
        raise ValueError(f"tensor {key!r} is {'missing' if key in expected else 'unknown'}")
    for key, tensor in expected.items():
        given = weights[key]
        if (given.shape, given.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(
                f"tensor {key!r} is {given.dtype} of shape {tuple(given.shape)}, not "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    model.load_state_dict(weights)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = read_tensors(path)
    if header.get("kind") != kind:
        raise CheckpointError(f"{path} is a {header.get('kind')}, but a {kind} is needed here")
    return header, tensors


def _unusable(path: Path, error: Exception) -> CheckpointError:
    reason = f"no {error}" if isinstance(error, KeyError) else error
    return CheckpointError(f"{path} cannot be rebuilt by this version ({reason}): use another one")
