"""Read IDX files, the format of MNIST and of the sets made in its image.

Format (LeCun et al., "The MNIST database"): two zero bytes, one byte for the type (0x08 = unsigned
byte), one byte for the number of axes, then each axis's length as a big-endian 32-bit integer,
then the values, the last axis fastest.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from data.images import FASHION_CLASSES, DataError, LabelledImages
from data.memory import check_memory
from data.plain_file import most_unpacked, open_plain

_UNSIGNED_BYTE = 0x08
_CHUNK_BYTES = 1 << 20
_PREFIXES = {"train": "train", "test": "t10k"}

# SHA-256 of the training labels' values: tells Fashion-MNIST from MNIST, whose file names it has.
_FASHION_TRAIN_LABELS = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, plain or gzipped (by its name), to a read-only array.

    Raises DataError unless the header and the length of the file agree to the byte, and for what
    does not fit into memory.
    """
    try:
        with open_plain(path) as file:
            if path.suffix == ".gz":
                with gzip.open(file, "rb") as unpacked:
                    return _parse(cast(IO[bytes], unpacked), path, most_unpacked(path))
            return _parse(file, path, path.stat().st_size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip data is damaged or cut short ({error}); fetch the file again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def has_idx(directory: Path) -> bool:
    """Tell whether `directory` holds the training images of an IDX quartet."""
    return _find(directory, "train", "images") is not None


def load_idx(directory: Path, part: Literal["train", "test"]) -> LabelledImages:
    """Load one part of an IDX quartet (MNIST, KMNIST, Fashion-MNIST, ...), checksums unchecked.

    The classes are the labels that occur in the training part; the test part may hold no others.
    Only the files of `part`, and the training labels, are opened. Raises DataError.
    """
    train_labels = _read_labels(directory, "train")
    values = np.unique(train_labels)
    labels = train_labels if part == "train" else _read_labels(directory, part)
    images = read_idx(_require(directory, part, "images"))
    strange = np.setdiff1d(labels, values)
    if strange.size:
        raise DataError(
            f"{directory}: the test labels hold {strange[0]}, which never occurs in the training "
            f"labels ({', '.join(map(str, values))}); check that both are of one data set"
        )
    is_fashion = hashlib.sha256(train_labels.data).hexdigest() == _FASHION_TRAIN_LABELS
    classes = FASHION_CLASSES if is_fashion else tuple(str(value) for value in values)
    return pair(
        images,
        np.searchsorted(values, labels).astype(np.int64),
        classes=classes,
        name=directory.name,
        origin=str(directory),
    )


def pair(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    classes: tuple[str, ...],
    name: str,
    origin: str,
) -> LabelledImages:
    """Join grey images (N, H, W) with their labels (N,). Raises DataError if they do not match."""
    if images.ndim != 3:
        raise DataError(
            f"{origin}: the images have {images.ndim} axes, but must have 3 (number, height, width)"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{origin}: {len(images)} images but {len(labels)} labels; the files do not belong "
            "together"
        )
    return LabelledImages(
        images=images[:, np.newaxis], labels=labels, classes=classes, name=name, origin=origin
    )


def _parse(file: IO[bytes], path: Path, most: int) -> NDArray[np.uint8]:
    """Return the values of an open file, which holds at most `most` bytes."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE or head[3] not in (1, 3):
        raise DataError(
            f"{path}: starts with bytes {head.hex(' ') or '(none)'}, but an IDX file of images "
            "starts with 00 00 08 03 and one of labels with 00 00 08 01"
        )
    num_axes = head[3]
    lengths = file.read(4 * num_axes)
    if len(lengths) < 4 * num_axes:
        raise DataError(f"{path}: ends inside its header; fetch the file again")
    shape = struct.unpack(f">{num_axes}I", lengths)
    stated = math.prod(shape)
    if not stated:
        raise DataError(f"{path}: its header states the shape {shape}, but no axis may be empty")
    expected = min(stated, most)
    check_memory(path, expected)
    content = _read_at_most(file, expected + 1)
    if len(content) > most:
        raise DataError(
            f"{path}: unpacks to more than {most} bytes, far more than images that are packed so "
            "small; unpack it yourself if you trust it"
        )
    if len(content) != stated:
        found = f"only {len(content)} follow" if len(content) < stated else "more follow"
        raise DataError(
            f"{path}: its header states {stated} values of shape {shape}, but {found}; "
            "fetch the file again"
        )
    values = np.frombuffer(content, dtype=np.uint8).reshape(shape)
    values.setflags(write=False)
    return values


def _read_at_most(file: IO[bytes], num_bytes: int) -> bytearray:
    """Read in pieces: a lying header must not make us reserve gigabytes, nor a bomb unpack."""
    content = bytearray()
    while len(content) < num_bytes:
        piece = file.read(min(_CHUNK_BYTES, num_bytes - len(content)))
        if not piece:
            break
        content += piece
    return content


def _read_labels(directory: Path, part: Literal["train", "test"]) -> NDArray[np.uint8]:
    path = _require(directory, part, "labels")
    labels = read_idx(path)
    if labels.ndim != 1:
        raise DataError(f"{path}: holds {labels.ndim} axes, but labels must have 1")
    return labels


def _require(
    directory: Path, part: Literal["train", "test"], kind: Literal["images", "labels"]
) -> Path:
    path = _find(directory, part, kind)
    if path is None:
        raise DataError(
            f"{directory}: lacks {_stem(part, kind, '-')}.gz (or unpacked, or written "
            f"{_stem(part, kind, '.')}); put it there"
        )
    return path


def _find(
    directory: Path, part: Literal["train", "test"], kind: Literal["images", "labels"]
) -> Path | None:
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = directory / (_stem(part, kind, separator) + suffix)
            if path.is_file():
                return path
    return None


def _stem(part: Literal["train", "test"], kind: Literal["images", "labels"], separator: str) -> str:
    return f"{_PREFIXES[part]}-{kind}{separator}idx{3 if kind == 'images' else 1}-ubyte"
