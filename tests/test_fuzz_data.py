"""IDX and CSV, plain and packed: what a file says, to the value, or one line that refuses it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import LIMIT, Tally, damaged, fuzz
from hypothesis import strategies as st

from data.idx import read_idx
from data.images import DataError, ImageShape
from data.tabular import read_csv, read_pixels

pytestmark = LIMIT

SHAPE = ImageShape(channels=1, height=2, width=3, num_classes=4)
_AXES = st.sampled_from([0, 1, 2, 3, 5, 255, 256, 2**31 - 1, 2**31, 2**32 - 1])
_CELLS = st.one_of(
    st.sampled_from(
        ["", " ", "-1", "256", "1.0", "1e1", "nan", "inf", "-0", "+7", "007", " 7", "7 ", "\t7",
         "1_0", "\uff11", "\u0661", '"7"', "'7'", "7\0", "\0", "0x10", "True", "NA", "9" * 900,
         "1,2", "1\n2", "1\r2", "=1+1", "\ufeff1", "\x1b[2J", "\u2028", "\ud800", "label", "pixel0"]
    ),
    st.integers(-3, 300).map(str),
    st.text(max_size=3),
)  # fmt: skip


def idx_bytes(shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@st.composite
def packed(draw: Any, content: bytes) -> bytes:
    """Draw `content` as gzip data: whole, in parts, with something after it, or damaged."""
    whole = gzip.compress(content, 1)
    way = draw(st.sampled_from(["whole", "parts", "after", "damaged", "twice", "plain"]))
    if way == "parts":
        at = draw(st.integers(0, len(content)))
        return gzip.compress(content[:at]) + gzip.compress(content[at:])
    if way == "after":
        return whole + draw(st.sampled_from([b"\0" * 9, b"x", whole[:5], b"\x1f\x8b\x08"]))
    if way == "damaged":
        damage: bytes = draw(damaged(whole, (10, 24)))
        return damage
    return {"whole": whole, "twice": gzip.compress(whole), "plain": content}[way]


def test_a_damaged_idx_file_gives_its_values_or_one_line(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "images-idx3-ubyte", tmp_path / "images-idx3-ubyte.gz"

    def check(tally: Tally, draw: Any) -> None:
        shape = draw(st.sampled_from([(1,), (7,), (2, 3, 4), (1, 1, 1), (300,)]))
        content = idx_bytes(shape, bytes(range(256))[: int(np.prod(shape))].ljust(300, b"\1"))
        content = content[: 4 + 4 * len(shape) + int(np.prod(shape))]
        way = draw(st.sampled_from(["header", "bytes", "bytes"]))
        if way == "header":  # as another program might write it
            axes = draw(st.lists(_AXES, min_size=1, max_size=4))
            content = idx_bytes(tuple(axes), content[4 + 4 * len(shape) :])
        else:
            content = draw(damaged(content, (16,)))
        path, stored = plain, content
        if draw(st.booleans()):
            path, stored = zipped, draw(packed(content))
        path.write_bytes(stored)
        values = tally.answer(lambda: read_idx(path))
        if values is not None:
            inside = gzip.decompress(stored) if path is zipped else stored
            assert idx_bytes(values.shape, values.tobytes()) == inside
            assert not values.flags.writeable

    fuzz("IDX", DataError, check)


@pytest.mark.parametrize(("axes", "count"), [((2**32 - 1,) * 3, 5), ((2**40 >> 12, 4096, 1), 5)])
def test_a_header_that_promises_more_than_memory_is_refused(
    tmp_path: Path, axes: tuple[int, ...], count: int
) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(axes, b"\1" * count))
    with pytest.raises(DataError, match=f"only {count} follow"):
        read_idx(path)
    with path.open("r+b") as file:  # a file with a hole has the length, and takes no room
        file.truncate(10**12 + 16)
    path.write_bytes(idx_bytes((10**6, 1000, 1000), b""))
    with path.open("r+b") as file:
        file.truncate(16 + 10**12)
    with pytest.raises(DataError, match=r"needs 1000\.0 GB of memory, but .* GB are free"):
        read_idx(path)


def csv_values(content: bytes) -> list[list[int]]:
    """Return what Python itself reads in the cells of a file, without its first line of names."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    rows = [line.split(",") for line in text.removesuffix("\n").split("\n")]
    if not rows[0][0].strip().lstrip("+-").isdigit():
        rows = rows[1:]
    return [[int(cell) for cell in row] for row in rows]


@st.composite
def csv_text(draw: Any, width: int) -> str:
    """Draw a table of `width` pixels, with a label or without, that has mostly good cells."""
    labelled = draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    table = generator.integers(0, 256, (draw(st.integers(0, 4)), width)).astype(str).tolist()
    rows = [[str(index % 4), *row] if labelled else row for index, row in enumerate(table)]
    first = draw(st.sampled_from([None, 0, 1]))
    if first is not None:
        names = [f"pixel{number + first}" for number in range(width)]
        rows.insert(0, (["label"] if labelled else []) + names)
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        way = draw(st.sampled_from(["cell", "cell", "more", "fewer", "blank"]))
        if way == "cell" and row:
            row[draw(st.integers(0, len(row) - 1))] = draw(_CELLS)
        elif way == "more":
            row += draw(st.lists(_CELLS, max_size=3))
        else:
            del row[1 if way == "fewer" else 0 :]
    ends = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\n\r"]))
    text = ends.join(",".join(row) for row in rows) + draw(
        st.sampled_from(["", ends, "\n", "\x1a"])
    )
    return draw(st.sampled_from(["", "", "\ufeff", "\n", "# x\n", "sep=,\n"])) + text


def test_a_damaged_csv_file_gives_its_values_or_one_line(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "rows.csv", tmp_path / "rows.csv.gz"

    def check(tally: Tally, draw: Any) -> None:
        content = draw(csv_text(6)).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 3)) == 0:
            content = draw(damaged(content, (40,)))
        path, stored = plain, content
        if draw(st.integers(0, 3)) == 0:
            path, stored = zipped, draw(packed(content))
        path.write_bytes(stored)
        pixels = tally.answer(lambda: read_pixels(path, SHAPE))
        if pixels is not None:
            expected = csv_values(gzip.decompress(stored) if path is zipped else stored)
            assert pixels.shape == (len(expected), 1, 2, 3)
            assert pixels.reshape(-1, 6).tolist() == [row[-6:] for row in expected]

    fuzz("CSV", DataError, check)


@pytest.mark.parametrize("cell", ["7\0", "\0007", "7\x001"])
def test_a_null_character_does_not_hide_what_stands_behind_it(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2,3,4,5,6\n1,2," + cell + ",4,5,6\n")
    with pytest.raises(DataError, match=r"line 2, column 3: the pixel is '.*x00"):
        read_pixels(path, SHAPE)


def test_a_file_without_line_ends_is_not_read_as_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("wb") as file:
        file.write(b"1,2,3,4,5,6\n")
        file.truncate(10**11)  # a hole reads as zeros
    with pytest.raises(DataError, match="line 2: has more than 8388608 characters"):
        read_pixels(path, SHAPE)


def test_a_fault_in_the_last_of_many_blocks_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "fashion-mnist_train.csv"
    row = "0," * 784 + "0\n"
    path.write_text(row * 16_000 + row[:-2] + "x\n")
    with pytest.raises(DataError, match="line 16001, column 785: the pixel is 'x'"):
        read_csv(path)
