"""Pictures and folders of them: an image of the stated shape, or one line that names the file."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import LIMIT, Tally, damaged, fuzz
from hypothesis import strategies as st
from PIL import Image

from data.folder import read_image
from data.images import DataError, ImageShape
from data.one_line import is_text
from data.source import DataSpec, load_test, load_train

pytestmark = LIMIT

SHAPES = [ImageShape(channels=channels, height=9, width=8, num_classes=2) for channels in (1, 3)]
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 16, 4), dtype=np.uint8)


def encode(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(PIXELS).convert("RGB" if mode in ("CMYK", "I;16") else mode)
    if mode == "I;16":
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256)
    image.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PNGS = [
    *(encode(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    encode("P", "PNG", transparency=3),
    encode("RGB", "PNG", exif=turned(), icc_profile=b"x" * 200),
    encode("RGB", "PNG", save_all=True, append_images=[Image.fromarray(PIXELS).convert("RGB")] * 2),
]
JPEGS = [
    *(encode(mode, "JPEG") for mode in ("L", "RGB", "CMYK")),
    encode("RGB", "JPEG", progressive=True, exif=turned()),
    encode("L", "JPEG", restart_marker_blocks=1, comment=b"c" * 50),
]
OTHERS = [encode("RGB", kind) for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")]


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG whose lengths and checksums are right, so that its content is looked at."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        parts += [struct.pack(">I", len(content)), kind, content]
        parts.append(struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(parts)


_SIDES = st.sampled_from([0, 1, 7, 16, 20, 5_000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
_HEADS = st.builds(
    lambda *fields: (b"IHDR", struct.pack(">IIBBBBB", *fields)),
    _SIDES,
    _SIDES,
    st.sampled_from([0, 1, 2, 4, 8, 16, 255]),
    st.sampled_from([0, 1, 2, 3, 4, 6, 255]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0, 0, 1, 2]),
)
_CHUNKS = st.sampled_from(
    [
        (b"IDAT", zlib.compress(bytes(1 << 20))),
        (b"IDAT", b""),
        (b"zTXt", b"key\0\0" + zlib.compress(bytes(4 << 20))),
        (b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(4 << 20))),
        (b"tEXt", b"key\0" + b"\x1b[2J\n" * 99),
        (b"iCCP", b"name\0\0" + zlib.compress(bytes(4 << 20))),
        (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3\xff\xff\xff\xff\0\6\0\0" * 9),
        (b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x08\0\0\0\x08\0\0\0"),
        (b"tRNS", b"\xff" * 300),
        (b"PLTE", b"\0" * 3),
        (b"PLTE", b"\0" * 769),
        (b"acTL", struct.pack(">II", 2**31, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31, 2**31, 0, 0, 0, 0, 2, 1)),
        (b"fdAT", b"\0\0\0\1" + zlib.compress(b"x")),
        (b"gAMA", b"\0\0\0\0"),
        (b"pHYs", b"\0"),
        (b"IEND", b""),
        (b"\xff\0\n ", b""),
    ]
)


@st.composite
def pictures(draw: Any) -> bytes:
    way = draw(st.sampled_from(["png", "png", "chunks", "chunks", "jpeg", "jpeg", "other"]))
    if way == "png":
        content: bytes = draw(damaged(draw(st.sampled_from(PNGS)), (40, 120)))
        return content
    if way == "jpeg":
        content = draw(damaged(draw(st.sampled_from(JPEGS)), (30, 640)))
        return content
    if way == "other":
        return draw(
            st.sampled_from([*OTHERS, b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg/>"])
        )
    chunks = chunks_of(draw(st.sampled_from(PNGS)))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(chunks) - 1))
        blow = draw(st.sampled_from(["head", "put", "inside", "remove", "swap"]))
        if blow == "head":
            chunks[0] = draw(_HEADS)
        elif blow == "put":
            chunks.insert(at, draw(_CHUNKS))
        elif blow == "inside":
            chunks[at] = (chunks[at][0], draw(damaged(chunks[at][1])))
        elif blow == "remove" and len(chunks) > 1:
            del chunks[at]
        elif blow == "swap":
            chunks[0], chunks[at] = chunks[at], chunks[0]
    return png_of(chunks)


def test_a_damaged_picture_is_an_image_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    def check(tally: Tally, draw: Any) -> None:
        path.write_bytes(draw(pictures()))
        shape = draw(st.sampled_from(SHAPES))
        pixels = tally.answer(lambda: read_image(path, shape))
        if pixels is not None:
            assert (pixels.shape, pixels.dtype) == ((shape.channels, 9, 8), np.uint8)

    fuzz("pictures", DataError, check)


def progressive(num_scans: int) -> bytes:
    """Return a JPEG of 25 million pixels that goes over all of them once more in 98 bytes a time.

    What it says last, bits of the finest detail, it says again and again.
    """
    buffer = io.BytesIO()
    Image.new("L", (5_000, 5_000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rfind(b"\xff\xc4", 0, content.rfind(b"\xff\xda")) : -2]
    return content[:-2] + last * num_scans + content[-2:]


def test_a_picture_that_would_take_minutes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(progressive(0))
    assert read_image(path, SHAPES[0]).shape == (1, 9, 8)
    path.write_bytes(progressive(20_000))
    with pytest.raises(DataError, match="draws its pixels more than 100 times over"):
        read_image(path, SHAPES[0])


def test_scans_are_counted_to_the_end_of_the_image(tmp_path: Path) -> None:
    # A film that a telephone put after its picture, and a small picture inside it.
    path = tmp_path / "a.jpg"
    thumbnail = b"Exif\0\0" + encode("L", "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    plain = encode("RGB", "JPEG", progressive=True)
    path.write_bytes(plain[:2] + segment * 40 + plain[2:] + b"\xff\xda" * 500)
    assert read_image(path, SHAPES[0]).shape == (1, 9, 8)


@pytest.mark.parametrize("sides", [(1, 40_000_000), (40_000_000, 1), (10**9, 10**9)])
def test_a_picture_with_an_endless_side_is_refused(tmp_path: Path, sides: tuple[int, int]) -> None:
    head = (b"IHDR", struct.pack(">IIBBBBB", *sides, 8, 0, 0, 0, 0))
    data = zlib.compress(bytes(10**6))
    (tmp_path / "a.png").write_bytes(png_of([head, (b"IDAT", data), (b"IEND", b"")]))
    with pytest.raises(DataError, match="pixels"):
        read_image(tmp_path / "a.png", SHAPES[0])


_NAMES = st.sampled_from(
    ["a", "b", "train", "x.png", "y.jpg", "z.gif", ".hidden", ".DS_Store", "\u202e", "a\nb",
     "\x1b[2J", "\udcff", "\U0001f455", "x" * 200, "...", "-", "a b", "%s{0}", "c.PNG", "train.zip"]
)  # fmt: skip


@st.composite
def layouts(draw: Any) -> list[tuple[str, str]]:
    """Draw a data folder as (path, what lies there), most of them nearly whole image folders."""
    kinds = st.sampled_from(
        ["picture"] * 4 + ["folder", "damaged", "empty", "pipe", "loop", "up", "nowhere", "link"]
    )
    entries = [
        (f"{part}/{name}/{number}.png", "picture")
        for part in ("train", "test")
        for name in "ab"
        for number in range(draw(st.integers(0, 2)))
    ]
    for _ in range(draw(st.integers(0, 3))):
        depth = draw(st.integers(1, 3))
        first = draw(st.sampled_from(["train", "test", "train/a", "test/b", "."]))
        rest = draw(st.lists(_NAMES, min_size=1, max_size=depth))
        entries.append(("/".join([first, *rest]), draw(kinds)))
    idx = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "t10k-labels.idx1-ubyte"]
    for name in draw(st.lists(st.sampled_from([*idx, "fashion-mnist_train.csv"]), max_size=1)):
        entries.append((name, draw(kinds)))
    return entries


def build(root: Path, entries: list[tuple[str, str]]) -> None:
    root.mkdir()
    for name, kind in dict(entries).items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind in ("picture", "damaged", "empty"):
                content = {"picture": PNGS[4], "damaged": PNGS[4][:60], "empty": b""}[kind]
                path.write_bytes(content)
            elif kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                targets = {
                    "loop": path,
                    "up": root,
                    "nowhere": root / "nowhere",
                    "link": "/dev/zero",
                }
                path.symlink_to(targets[kind])
        except OSError:  # a file stands where a folder should be, or the other way round
            continue


def test_a_data_folder_of_anything_is_a_data_set_or_one_line(tmp_path: Path) -> None:
    root = tmp_path / "set"

    def check(tally: Tally, draw: Any) -> None:
        shutil.rmtree(root, ignore_errors=True)
        build(root, draw(layouts()))
        colour = draw(st.booleans())
        spec = DataSpec(source=str(root), image_size=8, colour=colour)
        load = draw(st.sampled_from([load_train, load_test]))
        images = tally.answer(lambda: load(spec))
        if images is not None:
            assert images.shape.channels == (3 if colour else 1)
            assert all(map(is_text, images.classes))

    fuzz("data folders", DataError, check)


@pytest.mark.parametrize(
    "source", ["~nobody-of-that-name/x", "a" * 5_000, "a\0b", "\udcff", "\x1b["]
)
def test_a_place_that_cannot_be_is_told_in_one_line(source: str) -> None:
    with pytest.raises(DataError) as caught:
        load_train(DataSpec(source=source))
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 500
