"""Read Fashion-MNIST from CSV: 785 columns, the label first, then the pixels row by row.

Form of the files fashion-mnist_train.csv and fashion-mnist_test.csv (Kaggle, zalando-research): one
image a line, whole numbers separated by commas, with a first line of column names or without.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from data.idx import pair
from data.images import FASHION_CLASSES, DataError, ImageShape, LabelledImages
from data.memory import check_memory
from data.plain_file import most_unpacked, open_plain

if TYPE_CHECKING:
    import pandas as pd

_SIDE = 28
# Characters read at once: bounds the length of a line, the memory for the wide whole numbers that
# pandas makes at first, and the search for a fault.
_BLOCK = 1 << 23
_WHOLE_NUMBER = re.compile(r"[ \t]*[+-]?[0-9]{1,9}[ \t]*", re.ASCII)


def has_csv(directory: Path) -> bool:
    """Tell whether `directory` holds fashion-mnist_train.csv or its .gz."""
    return _find(directory, "train") is not None


def load_csv(directory: Path, part: Literal["train", "test"]) -> LabelledImages:
    """Load fashion-mnist_train.csv or fashion-mnist_test.csv (or .gz). Raises DataError."""
    path = _find(directory, part)
    if path is None:
        raise DataError(f"{directory}: lacks fashion-mnist_{part}.csv (or .csv.gz); put it there")
    images, labels = read_csv(path)
    return pair(images, labels, classes=FASHION_CLASSES, name=directory.name, origin=str(directory))


def read_csv(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images (N, 28, 28) uint8 and labels (N,) int64 from one .csv or .csv.gz file.

    Raises DataError with the line and the value of the first cell that is no whole number, no
    label in 0-9 or no pixel in 0-255, and for a line of other than 785 columns.
    """
    num_labels = len(FASHION_CLASSES)
    table, _ = _read_table(path, num_pixels=_SIDE * _SIDE, num_labels=num_labels, labelled=True)
    images = np.ascontiguousarray(table[:, 1:]).reshape(-1, _SIDE, _SIDE)
    return images, table[:, 0].astype(np.int64)


def read_pixels(path: Path, shape: ImageShape) -> NDArray[np.uint8]:
    """Read grey images (N, 1, H, W) uint8 from a .csv or .csv.gz file, with labels or without.

    A label column is checked and left out. Raises DataError as `read_csv` does.
    """
    if shape.channels != 1:
        raise DataError(f"{path}: CSV holds grey images, but the model takes colour; give pictures")
    table, labelled = _read_table(
        path,
        num_pixels=shape.height * shape.width,
        num_labels=shape.num_classes,
        labelled=None,
    )
    pixels = np.ascontiguousarray(table[:, 1:] if labelled else table)
    return pixels.reshape(-1, 1, shape.height, shape.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """What the first line says of the rest."""

    num_pixels: int
    num_labels: int
    labelled: bool
    has_header: bool

    @property
    def num_columns(self) -> int:
        return self.num_pixels + self.labelled


def _read_table(
    path: Path, *, num_pixels: int, num_labels: int, labelled: bool | None
) -> tuple[NDArray[np.uint8], bool]:
    """Return the values (N, columns) and whether the first is a label; `labelled` None: either."""
    chunks: list[NDArray[np.uint8]] = []
    try:
        with open_plain(path) as file:
            blocks = _blocks(file, path)
            first, _, text = next(blocks, "").partition("\n")
            layout = _read_first_line(path, first, num_pixels, num_labels, labelled)
            line = 2 if layout.has_header else 1
            if not layout.has_header:
                text = f"{first}\n{text}"
            while text:
                chunks.append(_read_block(path, text, line, layout))
                # Joined in the end, and parted from their labels: in all they are there twice.
                check_memory(path, sum(chunk.nbytes for chunk in chunks))
                line += text.count("\n")
                text = next(blocks, "")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip data is damaged or cut short ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text ({error.reason}); save it as plain CSV") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not chunks:
        raise DataError(f"{path}: holds no image; write one a line")
    return np.concatenate(chunks), layout.labelled


def _blocks(file: BinaryIO, path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces of whole lines, none of them empty."""
    packed = path.suffix == ".gz"
    plain = gzip.GzipFile(fileobj=file) if packed else file
    most = most_unpacked(path) if packed else path.stat().st_size
    num_read, rest, line = 0, "", 1
    with io.TextIOWrapper(plain, encoding="utf-8-sig") as reader:
        while piece := reader.read(_BLOCK):
            num_read += len(piece)
            if num_read > most:
                raise DataError(
                    f"{path}: unpacks to more than {most} bytes, far more than images that are "
                    "packed so small; unpack it yourself if you trust it"
                )
            text = rest + piece
            end = text.rfind("\n") + 1
            if not end and len(text) >= _BLOCK:
                raise DataError(
                    f"{path}, line {line}: has more than {_BLOCK} characters; write one image a "
                    "line"
                )
            if end:
                yield text[:end]
            line += text.count("\n")
            rest = text[end:]
    if rest:
        yield rest


def _read_block(path: Path, text: str, line: int, layout: _Layout) -> NDArray[np.uint8]:
    """Return the values (N, columns) of some lines, the first of which is line `line`."""
    import pandas as pd

    try:
        frame = pd.read_csv(
            io.BytesIO(text.encode()),
            header=None,
            skip_blank_lines=False,
            quoting=3,  # csv.QUOTE_NONE: a quotation mark is a fault, not syntax
            low_memory=False,
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError):
        _point_out(path, text, line, layout)
    if not _is_sound(frame, layout):
        _point_out(path, text, line, layout)
    return frame.to_numpy().astype(np.uint8)


def _find(directory: Path, part: Literal["train", "test"]) -> Path | None:
    for suffix in (".csv", ".csv.gz"):
        path = directory / f"fashion-mnist_{part}{suffix}"
        if path.is_file():
            return path
    return None


def _is_sound(frame: pd.DataFrame, layout: _Layout) -> bool:
    """Check a whole chunk at once; anything but whole numbers makes pandas pick another dtype."""
    if frame.shape[1] != layout.num_columns or not all(t == np.int64 for t in frame.dtypes):
        return False
    table = frame.to_numpy()
    if table.min() < 0 or table.max() > 255:
        return False
    return not layout.labelled or bool(table[:, 0].max() < layout.num_labels)


def _read_first_line(
    path: Path, line: str, num_pixels: int, num_labels: int, labelled: bool | None
) -> _Layout:
    """Find out about column names and the label; refuse wrong ones and a wrong number."""
    cells = line.split(",")
    if labelled is None:
        labelled = len(cells) != num_pixels
    layout = _Layout(
        num_pixels=num_pixels,
        num_labels=num_labels,
        labelled=labelled,
        has_header=not _WHOLE_NUMBER.fullmatch(cells[0]),
    )
    if len(cells) != layout.num_columns:
        raise DataError(f"{path}, line 1: {_column_count(line, layout)}")
    if layout.has_header:
        _check_names([cell.strip().strip('"') for cell in cells], path, layout)
    return layout


def _check_names(names: list[str], path: Path, layout: _Layout) -> None:
    if layout.labelled and names[0] != "label":
        raise DataError(
            f"{path}, line 1: starts with {_shown(names[0])}, but must start with a label from 0 "
            f"to {layout.num_labels - 1} or the column name 'label'"
        )
    first = 0 if names[layout.labelled] == "pixel0" else 1
    for number, name in enumerate(names[layout.labelled :]):
        if name != f"pixel{first + number}":
            raise DataError(
                f"{path}, line 1, column {number + layout.labelled + 1}: is named {_shown(name)}, "
                f"but must be 'pixel{first + number}'; columns run from pixel0 or from pixel1 on"
            )


def _point_out(path: Path, text: str, first: int, layout: _Layout) -> NoReturn:
    """Read again, cell by cell, and raise DataError at the first fault."""
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=first):
        cells = line.split(",")
        if len(cells) != layout.num_columns:
            raise DataError(f"{path}, line {number}: {_column_count(line, layout)}")
        for column, cell in enumerate(cells):
            is_label = layout.labelled and column == 0
            what, high = ("label", layout.num_labels - 1) if is_label else ("pixel", 255)
            if not _WHOLE_NUMBER.fullmatch(cell) or not 0 <= int(cell) <= high:
                raise DataError(
                    f"{path}, line {number}, column {column + 1}: the {what} is {_shown(cell)}, "
                    f"but must be a whole number from 0 to {high}"
                )
    raise DataError(f"{path}: is no table of whole numbers; save it as plain CSV again")


def _column_count(line: str, layout: _Layout) -> str:
    found = "is blank" if not line.strip() else f"has {line.count(',') + 1} columns"
    what = f"the label, then {layout.num_pixels}" if layout.labelled else f"{layout.num_pixels}"
    return f"{found}, but must have {layout.num_columns}: {what} pixels"


def _shown(cell: str) -> str:
    return "blank" if not cell.strip() else repr(cell if len(cell) <= 30 else cell[:30] + "...")
