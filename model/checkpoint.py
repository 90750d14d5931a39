"""Save and load networks: one safetensors file each, checked on the way in, never unpickled.

The file's header carries a JSON text from which everything is rebuilt, and a SHA-256 over that text
and every tensor. A file is written beside its place and moved there, so a reader finds the old one
or the new one, whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.images import ImageShape
from model.cnn import CNN
from model.config import Configuration
from model.schedule import optimizer_tensors, restore_optimizer
from model.train import Training

FORMAT = "fashion-search"
VERSION = 1


class CheckpointError(ValueError):
    """Say in one line which file cannot be used, and why."""


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
    tensors = {f"optimizer.{key}": t for key, t in optimizer_tensors(training.optimizer).items()}
    _write(path, "checkpoint", training, {"metrics": dict(metrics)}, tensors)


def save_model(
    trained: Training | LoadedModel,
    path: Path,
    *,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
) -> None:
    """Write the network alone, with the names of its classes in the order of the logits."""
    _write(path, "model", trained, {"classes": list(classes), "metrics": dict(metrics)}, {})


def load_checkpoint(path: Path, device: torch.device | str) -> tuple[Training, dict[str, Any]]:
    """Return the training and the metrics saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or written by a newer version.
    """
    content, tensors = _read(path, "checkpoint")
    try:
        training = _rebuild(content, tensors, torch.device(device))
        state = {
            key.removeprefix("optimizer."): tensor
            for key, tensor in tensors.items()
            if key.startswith("optimizer.")
        }
        restore_optimizer(training.optimizer, state)
        return training, dict(content["metrics"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(_unusable(path, error)) from error


def load_model(path: Path, device: torch.device | str) -> LoadedModel:
    """Return the network that `save_model` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or written by a newer version.
    """
    content, tensors = _read(path, "model")
    try:
        training = _rebuild(content, tensors, torch.device(device))
        return LoadedModel(
            model=training.model.eval(),
            configuration=training.configuration,
            shape=training.shape,
            classes=tuple(content["classes"]),
            seed=training.seed,
            epoch=training.epoch,
            metrics=dict(content["metrics"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(_unusable(path, error)) from error


def _rebuild(content: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Training:
    training = Training.start(
        Configuration.from_dict(content["configuration"]),
        ImageShape(**content["shape"]),
        content["mean"],
        content["std"],
        content["seed"],
        device,
    )
    weights = {
        key.removeprefix("model."): tensor
        for key, tensor in tensors.items()
        if key.startswith("model.")
    }
    training.model.load_state_dict(weights)
    training.epoch = content["epoch"]
    return training


def _write(
    path: Path,
    kind: str,
    trained: Training | LoadedModel,
    more: dict[str, Any],
    more_tensors: dict[str, Tensor],
) -> None:
    model = trained.model
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()} | more_tensors
    # The file has one order of axes, whatever the memory layout of the training was.
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    content = json.dumps(
        {
            "configuration": trained.configuration.to_dict(),
            "shape": asdict(trained.shape),
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "seed": trained.seed,
            "epoch": trained.epoch,
            **more,
        }
    )
    header = {"format": FORMAT, "version": str(VERSION), "kind": kind, "content": content}
    header["sha256"] = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            file.write(save(tensors, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON content and the tensors of a file whose digest is right."""
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file of another program: give a {kind} that "
                    f"{FORMAT} wrote"
                )
            if header.get("version") != str(VERSION):
                raise CheckpointError(
                    f"{path} has format version {header.get('version')}, this program reads "
                    f"{VERSION}: use the version of {FORMAT} that wrote it"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: give the path of a {kind}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({_first_line(error)}): it was cut short or "
            "damaged; use another one"
        ) from error
    given = header.pop("sha256", "")
    if given != _digest(header, tensors):
        raise CheckpointError(
            f"{path} is damaged (its SHA-256 does not match its content): use another one"
        )
    if header["kind"] != kind:
        raise CheckpointError(f"{path} is a {header['kind']}, but a {kind} is needed here")
    content: dict[str, Any] = json.loads(header["content"])
    return content, tensors


def _digest(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unusable(path: Path, error: Exception) -> str:
    return f"{path} cannot be rebuilt by this version ({_first_line(error)}): use another one"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
