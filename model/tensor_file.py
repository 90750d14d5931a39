"""Keep named tensors with a JSON header in one safetensors file that notices any damage.

The header is one JSON text under the key "fashion-search" of the file's metadata: "version",
"sha256" over everything else, and what the caller put there. A file is written beside its place
and moved there, so a reader finds the old one or the new one, whole, also after a power cut. Equal
content gives equal bytes. Format: https://github.com/huggingface/safetensors
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.memory import available_memory
from data.one_line import OneLineError
from data.plain_file import open_plain
from model.whole_file import write_whole

FORMAT = "fashion-search"
VERSION = 1
_MOST_TENSORS = 10_000  # a network of ours and its optimizer have hundreds
_MOST_HEADER = 16 << 20  # characters


class CheckpointError(OneLineError, ValueError):
    """Say in one line which file cannot be used, and why."""


def write_tensors(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` and `header` (JSON values; not-a-number is kept) to `path`, or nothing.

    Raises:
        OSError: As the system gave it (`errno` tells a full disk). What was at `path` still is.
    """
    # The file has one order of axes, whatever the memory layout of the training was.
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    # What is hashed is what a reader will see: tuples have become lists by then.
    content: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **header}))
    content["sha256"] = _digest(content, plain)
    write_whole(path, save(plain, metadata={FORMAT: json.dumps(content)}))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors, on the CPU, of a file whose digest is right.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or of another format version.
    """
    try:
        with open_plain(path) as plain:  # of a pipe, safetensors would wait for the writer
            num_bytes = os.fstat(plain.fileno()).st_size
        if num_bytes > available_memory():
            raise CheckpointError(f"{path} has {num_bytes} bytes, more than memory has free")
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise CheckpointError(
                    f"{path} is a safetensors file of another program: give one that {FORMAT} wrote"
                )
            header = _parse(path, text)
            if len(file.keys()) > _MOST_TENSORS:
                raise CheckpointError(
                    f"{path} holds {len(file.keys())} tensors: no network of ours"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: give the path of a saved network") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}): use another one"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or damaged; "
            "use another one"
        ) from error
    if header.pop("sha256", None) != _digest(header, tensors):
        raise CheckpointError(
            f"{path} is damaged (its SHA-256 does not match its content): use another one"
        )
    return header, tensors


def _parse(path: Path, text: str) -> dict[str, Any]:
    if len(text) > _MOST_HEADER:
        raise CheckpointError(f"{path} has a header of {len(text)} characters: no network of ours")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged (its header is no JSON): use another") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this program reads {VERSION}: use the "
            f"version of {FORMAT} that wrote it"
        )
    return dict(header)


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
