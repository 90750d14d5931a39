"""Label pictures and CSV rows with a trained model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from data.folder import PICTURES, read_image
from data.images import DataError
from data.memory import check_memory
from data.one_line import one_line
from data.tabular import read_pixels
from model.checkpoint import LoadedModel, load_model
from model.evaluate import predict_logits
from model.geometry import plan_network
from search.record.study import StudyError

_MOST_AT_ONCE = 250  # images; more outgrow the cache
_MAPS_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of one image."""

    source: str
    """File, and line for a CSV row."""
    labels: tuple[str, ...]
    """The most probable classes, best first."""
    probabilities: tuple[float, ...]
    """Of those classes; softmax of the logits."""

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        return asdict(self)


def find_model(place: Path) -> LoadedModel:
    """Load the model of a study folder, an export folder, or a .safetensors file.

    Raises:
        StudyError: There is none.
        CheckpointError: The file is not a model of ours.
    """
    candidates = (
        place,
        place / "model.safetensors",
        place / "export" / "model.safetensors",
        place / "final" / "winner-s0" / "model.safetensors",
    )
    for path in candidates:
        if path.is_file():
            return load_model(path, "cpu")
    raise StudyError(
        f"{place} holds no model; give a study that was retrained, an export folder, or a"
        " .safetensors file"
    )


def predict(loaded: LoadedModel, inputs: list[Path], *, top: int) -> list[Prediction]:
    """Label PNG and JPEG files, folders of them, and CSV files (with or without labels).

    Pictures are turned to the model's size and channels. Garments must be bright on dark, as in
    Fashion-MNIST: nothing is inverted.

    Raises:
        DataError: An input is missing, of another kind, or does not hold what it should.
        StudyError: The model's weights are of a training that diverged.
    """
    shape = loaded.shape
    sources: list[str] = []
    images: list[NDArray[np.uint8]] = []
    for path in inputs:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
            pictures = sorted(p for p in found if not p.is_dir())
            if not pictures:
                raise DataError(f"{path} holds no picture ({', '.join(PICTURES)})")
        elif path.suffix.lower() in PICTURES:
            pictures = [path]
        elif path.name.lower().endswith((".csv", ".csv.gz")):
            pictures = []
            rows = read_pixels(path, shape)
            _check_memory(loaded, path, len(rows))
            images.extend(rows)
            sources.extend(f"{path} image {i}" for i in range(1, len(rows) + 1))
        else:
            raise DataError(f"{path}: must be a folder, a .csv, or {', '.join(PICTURES)}")
        _check_memory(loaded, path, len(pictures))
        images.extend(read_image(picture, shape) for picture in pictures)
        sources.extend(map(str, pictures))
    if not images:
        raise DataError("nothing to predict: the inputs hold no image")
    pixels = torch.from_numpy(np.stack(images))
    logits = torch.from_numpy(predict_logits(loaded.model, pixels, _batch(loaded)))
    if not logits.isfinite().all():
        raise StudyError("the model answers not-a-number: its training diverged; give another one")
    probabilities, classes = logits.softmax(dim=1).topk(min(top, shape.num_classes), dim=1)
    return [
        Prediction(
            source=source,
            labels=tuple(loaded.classes[k] for k in row),
            probabilities=tuple(values),
        )
        for source, row, values in zip(
            sources, classes.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _check_memory(loaded: LoadedModel, path: Path, num_images: int) -> None:
    """Refuse, before an image is read, what would not fit. Raises DataError."""
    shape = loaded.shape
    pixels = num_images * shape.channels * shape.height * shape.width
    # When they are joined, the images are there twice.
    check_memory(path, 2 * pixels + _batch(loaded) * _largest_maps(loaded))


def _batch(loaded: LoadedModel) -> int:
    """Return how many images go through the network at once."""
    return max(1, min(_MOST_AT_ONCE, _MAPS_BYTES // _largest_maps(loaded)))


def _largest_maps(loaded: LoadedModel) -> int:
    """Return the bytes that one image takes inside the network: the largest map, and another."""
    blocks = plan_network(loaded.configuration.network, loaded.shape).blocks
    return max(8 * conv.filters * math.prod(conv.out_size) for block in blocks for conv in block)


def predict_table(predictions: list[Prediction]) -> Table:
    """Return the predictions as a table for the terminal."""
    table = Table("image", "label", "probability", box=None, pad_edge=False)
    for prediction in predictions:
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        for rank, (label, probability) in enumerate(pairs):
            source = escape(one_line(prediction.source)) if rank == 0 else ""
            table.add_row(source, escape(label), f"{probability:.4f}")
    return table
