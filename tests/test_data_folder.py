"""Image folders and single images: sizes, colours, and everything that is refused."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.folder import load_folder, read_image
from data.images import DataError, ImageShape

GREY = ImageShape(channels=1, height=8, width=8, num_classes=2)
COLOUR = ImageShape(channels=3, height=8, width=8, num_classes=2)


def save(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path, **options)


def make_set(root: Path, train: dict[str, int], test: dict[str, int]) -> None:
    for part, numbers in (("train", train), ("test", test)):
        for name, number in numbers.items():
            for index in range(number):
                save(root / part / name / f"{index}.png", np.full((8, 8), 10 * index + len(name)))


def test_classes_are_the_folders_of_train_sorted_by_name(tmp_path: Path) -> None:
    make_set(tmp_path, {"shoe": 2, "bag": 3}, {"shoe": 1})

    train = load_folder(tmp_path, "train", image_size=8, colour=False)
    test = load_folder(tmp_path, "test", image_size=8, colour=False)

    assert train.classes == test.classes == ("bag", "shoe")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert test.labels.tolist() == [1]
    assert train.images[:, 0, 0, 0].tolist() == [3, 13, 23, 4, 14]
    assert (train.name, train.origin) == (tmp_path.name, str(tmp_path))


@pytest.mark.parametrize(("colour", "channels"), [(False, 1), (True, 3)])
def test_images_take_the_stated_size_and_channels(
    tmp_path: Path, colour: bool, channels: int
) -> None:
    save(tmp_path / "train" / "a" / "wide.jpg", np.full((20, 50, 3), (200, 100, 50)))
    save(tmp_path / "train" / "b" / "grey.PNG", np.full((5, 5), 77))

    data = load_folder(tmp_path, "train", image_size=16, colour=colour)

    assert data.images.shape == (2, channels, 16, 16)
    assert set(data.images[1].reshape(-1).tolist()) == {77}
    expected = (200, 100, 50) if colour else (124,)  # 0.299 R + 0.587 G + 0.114 B
    np.testing.assert_allclose(data.images[0].mean(axis=(1, 2)), expected, atol=2)


def test_an_image_of_the_right_size_is_read_to_the_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save(tmp_path / "a.png", pixels)

    np.testing.assert_array_equal(read_image(tmp_path / "a.png", COLOUR), pixels.transpose(2, 0, 1))
    assert read_image(tmp_path / "a.png", COLOUR).flags.c_contiguous


def test_shrinking_averages_over_the_area(tmp_path: Path) -> None:
    # Stripes finer than the target: a resize that only picks pixels would keep 0 or 255.
    save(tmp_path / "a.png", np.tile([0, 255], (64, 32)))

    shrunk = read_image(tmp_path / "a.png", GREY)
    assert 110 < shrunk.min() <= shrunk.max() < 145


def test_height_and_width_are_not_mixed_up(tmp_path: Path) -> None:
    pixels = np.zeros((6, 4), dtype=np.uint8)
    pixels[5, 0] = 255
    save(tmp_path / "a.png", pixels)
    shape = ImageShape(channels=1, height=6, width=4, num_classes=2)

    np.testing.assert_array_equal(read_image(tmp_path / "a.png", shape)[0], pixels)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise to view
    save(tmp_path / "a.png", pixels, exif=exif)

    upright = read_image(tmp_path / "a.png", GREY)[0]
    np.testing.assert_array_equal(upright[:4], 255)
    np.testing.assert_array_equal(upright[4:], 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_8_bit_mode_is_read(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "a.png", np.full((8, 8, 3), 255), mode)

    assert set(read_image(tmp_path / "a.png", GREY).reshape(-1).tolist()) == {255}
    assert read_image(tmp_path / "a.png", COLOUR).shape == (3, 8, 8)


def test_what_is_transparent_becomes_black(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 200)
    pixels[:, :4, 3] = 0
    pixels[:, 4:, 3] = 255
    save(tmp_path / "a.png", pixels)

    image = read_image(tmp_path / "a.png", GREY)[0]
    assert image[0].tolist() == [0] * 4 + [200] * 4


def test_refuses_16_bits_which_would_be_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"a\.png: stores pixels as 'I;16', but 8 bits"):
        read_image(tmp_path / "a.png", GREY)


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG whose header states a huge size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_refuses_a_decompression_bomb_before_unpacking_it(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side, side))

    with pytest.raises(DataError, match=r"a\.png: .*pixels"):
        read_image(tmp_path / "a.png", GREY)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("content", [b"", b"GIF89a" + bytes(50), b"text"])
def test_refuses_what_is_no_image_whatever_it_is_called(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=f"{name}: cannot be read as a PNG or JPEG") as caught:
        read_image(tmp_path / name, GREY)
    assert "\n" not in str(caught.value)


def test_refuses_a_picture_cut_short_and_one_that_is_not_there(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        path = tmp_path / name
        save(path, pixels)
        path.write_bytes(path.read_bytes()[:-1_000])
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_image(path, GREY)
    with pytest.raises(DataError, match="there is no such file"):
        read_image(tmp_path / "b.png", GREY)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_pictures_give_an_image_or_a_data_error(data: st.DataObject, kind: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(content)
        try:
            assert read_image(path, COLOUR).shape == (3, 8, 8)
        except DataError as error:
            assert "\n" not in str(error)


def test_refuses_a_test_class_that_was_never_trained_on(tmp_path: Path) -> None:
    make_set(tmp_path, {"bag": 1, "shoe": 1}, {"bag": 1, "hat": 1})

    with pytest.raises(DataError, match=r"hat: is no class of .*train \(bag, shoe\)"):
        load_folder(tmp_path, "test", image_size=8, colour=False)


def test_refuses_a_lone_class(tmp_path: Path) -> None:
    make_set(tmp_path, {"bag": 2}, {"bag": 1})

    with pytest.raises(DataError, match="1 class, but a classifier needs at least 2"):
        load_folder(tmp_path, "train", image_size=8, colour=False)


def test_refuses_to_leave_a_file_out_unsaid_but_passes_over_hidden_ones(tmp_path: Path) -> None:
    make_set(tmp_path, {"bag": 1, "shoe": 1}, {})
    (tmp_path / "train" / "bag" / ".DS_Store").write_bytes(b"x")
    assert load_folder(tmp_path, "train", image_size=8, colour=False).num_images == 2

    (tmp_path / "train" / "bag" / "more.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"more\.gif: is neither a \.png, \.jpg nor \.jpeg"):
        load_folder(tmp_path, "train", image_size=8, colour=False)


def test_refuses_an_empty_class_and_a_missing_part(tmp_path: Path) -> None:
    make_set(tmp_path, {"bag": 1, "shoe": 1}, {})
    with pytest.raises(DataError, match="test: is no folder"):
        load_folder(tmp_path, "test", image_size=8, colour=False)
    (tmp_path / "train" / "hat").mkdir()
    with pytest.raises(DataError, match="hat: holds no image"):
        load_folder(tmp_path, "train", image_size=8, colour=False)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test: holds no folder"):
        load_folder(tmp_path, "test", image_size=8, colour=False)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    make_set(tmp_path, {"bag": 1, "shoe": 1}, {})
    (tmp_path / "train" / "shoe" / "broken.jpeg").write_bytes(b"\xff\xd8\xff")

    with pytest.raises(DataError, match=r"shoe/broken\.jpeg: cannot be read"):
        load_folder(tmp_path, "train", image_size=8, colour=False)


def test_refuses_more_images_than_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(tmp_path, {"bag": 2, "shoe": 2}, {})
    monkeypatch.setattr("data.memory.available_memory", lambda: 4 * 8 * 8 - 1)
    with pytest.raises(DataError, match=r"needs 0\.0 GB of memory, but .* use fewer or smaller"):
        load_folder(tmp_path, "train", image_size=8, colour=False)
