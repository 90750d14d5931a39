"""Label pictures and CSV rows with a trained model. No torch, unless the model is weights alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.folder import PICTURES, read_image
from data.images import FASHION_CLASSES, DataError, ImageShape
from data.memory import check_memory
from data.tabular import read_pixels
from model.batch import bytes_per_image, images_at_once
from model.exported import SUMS, ExportedModel, open_export
from model.softmax import softmax
from search.record.final_metrics import read_metrics, winner_rows
from search.study_error import StudyError

Told = Callable[[int, int], None]
"""Called with how many images are done, and of how many."""

Noted = Callable[[int, int], None]
"""Called with how many images are bright at the edges, and of how many."""
Skipped = Callable[[str], None]
"""Called with why a picture was left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labeller:
    """A trained network, whatever runs it."""

    shape: ImageShape
    """Of the images it takes."""
    classes: tuple[str, ...]
    """Their names, in the order of the logits."""
    bytes_each: int
    """Memory that one image takes inside it."""
    dark_ground: bool
    """Whether it knows bright garments on a dark ground."""
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Images (N, C, H, W) uint8, N at least 1, to logits (N, K)."""


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


def find_model(place: Path) -> Labeller:
    """Open the model of a study folder, an export folder, or a .safetensors or .onnx file.

    An export is checked against its sums and run by ONNX Runtime; weights alone by PyTorch.

    Raises:
        StudyError: There is none, or a study's export is not of the final models there are now.
        ExportError: The export is not what was written.
        CheckpointError: The file is not a model of ours.
    """
    if place.is_file():
        if place.suffix != ".onnx":
            return _weights(place)
        if place.name != "model.onnx":
            raise StudyError(
                f"{place} is no model.onnx; of an export, give the folder, its model.onnx or its"
                " model.safetensors"
            )
        return _exported(open_export(place.parent))
    if any((folder / SUMS).is_file() for folder in (place, place / "export")):
        return _exported(open_model(place))
    # A study's own weights before those of an export that has lost its sums.
    for path in (
        place / "model.safetensors",
        *(place / "final" / row["name"] / "model.safetensors" for row in _winner(place)),
        place / "export" / "model.safetensors",
    ):
        if path.is_file():
            return _weights(path)
    raise StudyError(
        f"{place} holds no model; give a study that was retrained, an export folder, or a"
        " .safetensors file"
    )


def open_model(place: Path, *, threads: int = 0) -> ExportedModel:
    """Open the export of a study folder, or an export folder.

    Args:
        place: The folder.
        threads: CPU threads of the runtime; 0 leaves that to it.

    Raises:
        StudyError: A study's export is not of the final models there are now.
        ExportError: It holds no export, or a file of it was changed.
    """
    if (place / SUMS).is_file() or not (place / "export").is_dir():
        return open_export(place, threads=threads)
    model = open_export(place / "export", threads=threads)
    made_of = (model.facts.get("provenance") or {}).get("model_sha256")
    if any(row["model_sha256"] != made_of for row in _winner(place)):
        raise StudyError(
            f"the exported model of {place.name} is older than its final models; run"
            f" `export {place.name}`"
        )
    return model


def _winner(place: Path) -> list[dict[str, Any]]:
    """Return the row of a study's first final model, the one that is exported; none elsewhere."""
    if not place.is_dir():
        return []
    return winner_rows(read_metrics(place / "final"))[:1]


def _exported(model: ExportedModel) -> Labeller:
    return Labeller(
        shape=model.shape,
        classes=model.classes,
        bytes_each=model.bytes_each,
        dark_ground=model.ground == "dark",
        answer=model.logits,
    )


def _weights(path: Path) -> Labeller:
    import torch

    from model.checkpoint import load_model
    from model.evaluate import predict_logits

    loaded = load_model(path, "cpu")
    each = bytes_per_image(loaded.configuration.network, loaded.shape)
    return Labeller(
        shape=loaded.shape,
        classes=loaded.classes,
        bytes_each=each,
        dark_ground=loaded.classes == FASHION_CLASSES,
        answer=lambda pixels: predict_logits(
            loaded.model, torch.from_numpy(pixels), images_at_once(each)
        ),
    )


def predict(
    labeller: Labeller,
    inputs: list[Path],
    *,
    top: int,
    invert: bool = False,
    told: Told = lambda done, total: None,
    noted: Noted = lambda bright, total: None,
    skipped: Skipped | None = None,
) -> list[Prediction]:
    """Label PNG and JPEG files, folders of them, and CSV files (with or without labels).

    Pictures are turned to the model's size and channels. Garments must be bright on dark, as in
    Fashion-MNIST: nothing is inverted but where `invert` says so.

    Args:
        labeller: The model.
        inputs: The files and folders.
        top: Classes for each image.
        invert: Turn dark on bright into bright on dark first.
        told: While pictures are read.
        noted: Where the model knows bright on dark, and some of these are bright at the edges.
        skipped: Told of each picture of a folder that cannot be read, while the others are
            labelled; without it, one is an error.

    Raises:
        DataError: An input is missing, of another kind, or does not hold what it should.
        StudyError: The model's weights are of a training that diverged.
    """
    sources, pixels = read_inputs(labeller, inputs, told=told, skipped=skipped)
    if invert:
        np.subtract(255, pixels, out=pixels)
    predictions = label(labeller, sources, pixels, top=top)
    if labeller.dark_ground and (bright := int(bright_edged(pixels).sum())):
        noted(bright, len(pixels))
    return predictions


def read_inputs(
    labeller: Labeller,
    inputs: list[Path],
    *,
    told: Told = lambda done, total: None,
    skipped: Skipped | None = None,
) -> tuple[list[str], NDArray[np.uint8]]:
    """Read all images; return where each is from, and (N, C, H, W). Raises DataError."""
    shape = labeller.shape
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
            _check_memory(labeller, path, len(rows))
            images.extend(rows)
            sources.extend(f"{path} image {i}" for i in range(1, len(rows) + 1))
        else:
            raise DataError(f"{path}: must be a folder, a .csv, or {', '.join(PICTURES)}")
        _check_memory(labeller, path, len(pictures))
        for number, picture in enumerate(pictures, start=1):
            told(number, len(pictures))
            try:
                images.append(read_image(picture, shape))
            except DataError as error:
                if skipped is None or not path.is_dir():
                    raise
                skipped(str(error))
                continue
            sources.append(str(picture))
    if not images:
        raise DataError("nothing to predict: the inputs hold no image")
    return sources, np.stack(images)


def label(
    labeller: Labeller, sources: list[str], pixels: NDArray[np.uint8], *, top: int
) -> list[Prediction]:
    """Label images (N, C, H, W) uint8; `sources` name them. Raises StudyError."""
    classes, probabilities = top_classes(labeller.answer(pixels), top)
    return [
        Prediction(
            source=source,
            labels=tuple(labeller.classes[k] for k in row),
            probabilities=tuple(values),
        )
        for source, row, values in zip(
            sources, classes.tolist(), probabilities.tolist(), strict=True
        )
    ]


def top_classes(
    logits: NDArray[np.float32], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the most probable classes (N, top) of logits (N, K), best first, and how probable.

    Raises:
        StudyError: The logits are not numbers.
    """
    if not np.isfinite(logits).all():
        raise StudyError("the model answers not-a-number: its training diverged; give another one")
    shares = softmax(logits)
    classes = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    return classes, np.take_along_axis(shares, classes, axis=1)


def bright_edged(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which images (N, C, H, W) are bright in three of their corners or more.

    So is none of Fashion-MNIST's training images, and nearly every photograph from a shop.
    """
    side = max(1, min(pixels.shape[2:]) // 9)
    corners = [
        pixels[:, :, rows, columns].mean(axis=(1, 2, 3))
        for rows in (slice(side), slice(-side, None))
        for columns in (slice(side), slice(-side, None))
    ]
    bright: NDArray[np.bool_] = np.sort(corners, axis=0)[1] > 127
    return bright


def _check_memory(labeller: Labeller, path: Path, num_images: int) -> None:
    """Refuse, before an image is read, what would not fit. Raises DataError."""
    shape, each = labeller.shape, labeller.bytes_each
    pixels = num_images * shape.channels * shape.height * shape.width
    # When they are joined, the images are there twice.
    check_memory(path, 2 * pixels + images_at_once(each) * each)
