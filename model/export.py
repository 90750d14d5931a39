"""Hand a trained network over: a folder that stands alone, and whose programs are proven to agree.

`model.onnx` runs without PyTorch, `model.pt2` without this project. Both take pixels (N, C, H, W)
float32 in [0, 255], N free, and return logits (N, K) float32; normalisation is inside.
"""

import copy
import hashlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import bytes_per_image
from model.card import write_card
from model.card_numbers import card_facts
from model.checkpoint import LoadedModel, save_model
from model.cnn import CNN
from model.evaluate import predict_logits
from model.latency import measure_latency
from model.preprocessing import preprocessing
from model.proof import ExportError, prove
from model.seal import Look

__all__ = ["ExportError", "export_model"]

# As old as the opset of the program allows.
_REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.20\npillow>=10  # for pictures only; CSV needs none\n"


def export_model(
    loaded: LoadedModel,
    out_dir: Path,
    *,
    proof_images: NDArray[np.uint8],
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    proof_labels: NDArray[np.int64] | None = None,
    looks: Sequence[Look] = (),
    threads: int = 1,
) -> Path:
    """Write the export folder `out_dir` and return it; it is complete and proven, or not there.

    It stands alone: three forms of the network, labels.json, preprocessing.json, a card for people
    and one for programs, example.py with its requirements.txt, and SHA256SUMS.

    Args:
        loaded: The network.
        out_dir: Not there yet, or empty.
        proof_images: (N, C, H, W) uint8, real images of its training on which the written
            programs must give the live network's answers.
        provenance: JSON values, listed in the card.
        evaluation: `Evaluation.to_dict()`, with a sentence "measured_on" if the card is to say on
            what; None where it was not measured.
        proof_labels: (N,) of the proof's images: then the card tells their accuracy too.
        looks: Every time the test images were opened.
        threads: CPU threads with which its speed is measured.

    Raises:
        ExportError: `out_dir` holds something, the images do not fit, or a program disagrees.
    """
    shape = loaded.shape
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ExportError(f"{out_dir} is already there: remove it or export to another folder")
    one = (shape.channels, shape.height, shape.width)
    if proof_images.dtype != np.uint8 or proof_images.shape[1:] != one or not len(proof_images):
        raise ExportError(
            f"proof images are {proof_images.dtype} of shape {proof_images.shape}, but must be "
            f"uint8 of shape {('N', *one)}, N at least 1"
        )
    # Contiguous: channels last serves speed in training, the programs choose for themselves.
    model = copy.deepcopy(loaded.model).cpu().eval()
    model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = out_dir.with_name(f".{out_dir.name}.{uuid4().hex}.part")
    folder.mkdir()
    try:
        save_model(
            loaded, folder / "model.safetensors", classes=loaded.classes, metrics=loaded.metrics
        )
        _write_programs(model, folder)
        _write_json(folder / "labels.json", list(loaded.classes))
        live = predict_logits(model, torch.tensor(proof_images))
        proofs = [
            prove(folder / name, proof_images, live, proof_labels)
            for name in ("model.onnx", "model.pt2")
        ]
        _write_json(folder / "preprocessing.json", preprocessing(loaded))
        shutil.copyfile(Path(__file__).with_name("example.py"), folder / "example.py")
        (folder / "requirements.txt").write_text(_REQUIREMENTS, encoding="ascii")
        latency = measure_latency(
            folder / "model.onnx",
            shape,
            bytes_each=bytes_per_image(loaded.configuration.network, shape),
            threads=threads,
        )
        measured = (provenance, evaluation, proofs, latency, looks)
        write_card(folder / "model_card.md", loaded, *measured)
        _write_json(folder / "model_card.json", card_facts(loaded, *measured))
        _write_sums(folder)
        folder.replace(out_dir)  # an empty folder in its place is replaced, anything else refused
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out_dir


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_programs(model: CNN, folder: Path) -> None:
    """Write model.pt2 and model.onnx from one traced program, so that they cannot differ."""
    shape = model.shape
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, shape.channels, shape.height, shape.width)
    num_images = {"pixels": {0: torch.export.Dim("N", min=1)}}
    with _quiet():
        program = torch.export.export(model, (example,), dynamic_shapes=num_images)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names paths of this machine
        archive = io.BytesIO()
        torch.export.save(program, archive)  # by itself it ends the process where the disk is full
        (folder / "model.pt2").write_bytes(archive.getvalue())
        torch.onnx.export(
            program,
            (),
            folder / "model.onnx",
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=num_images,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the exporters' remarks on their own insides; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _write_sums(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum --check` reads it."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="ascii")
