"""IDX files: what is whole is read to the byte, what is not is refused in one line."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.idx import load_idx, read_idx
from data.images import DataError


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


def write_quartet(
    folder: Path,
    train_labels: list[int],
    test_labels: list[int],
    pattern: str = "{part}-{kind}-idx{axes}-ubyte",
    compress: bool = False,
) -> None:
    generator = np.random.default_rng(0)
    for part, labels in (("train", train_labels), ("t10k", test_labels)):
        images = generator.integers(0, 256, (len(labels), 5, 4), dtype=np.uint8)
        for kind, values in (("images", images), ("labels", np.array(labels, dtype=np.uint8))):
            path = folder / pattern.format(part=part, kind=kind, axes=values.ndim)
            content = idx_bytes(values)
            if compress:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


def test_reads_values_in_their_order_plain_and_gzipped(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(values)))

    for name in ("plain", "packed.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), values)


def test_what_is_read_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(3, dtype=np.uint8)))

    with pytest.raises(ValueError, match="read-only"):
        read_idx(tmp_path / "labels")[0] = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"starts with bytes \(none\), but an IDX file"),
        (b"\x89PNG\r\n", "starts with bytes 89 50 4e 47"),
        (b"\0\0\x0d\x03" + b"\0" * 12, "starts with bytes 00 00 0d 03"),  # floats
        (b"\0\0\x08\x02" + b"\0" * 8, "starts with bytes 00 00 08 02"),  # two axes
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (b"\0\0\x08\x01" + struct.pack(">I", 0), "no axis may be empty"),
        (b"\0\0\x08\x01" + struct.pack(">I", 3) + b"ab", "states 3 values .* only 2 follow"),
        (b"\0\0\x08\x01" + struct.pack(">I", 1) + b"ab", "states 1 values .* more follow"),
        # A lying header of 2^96 values must not make us reserve them.
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"ab", "only 2 follow"),
    ],
)
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_refuses_a_file_that_does_not_keep_its_word(
    tmp_path: Path, content: bytes, message: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_half_a_gzip_file_and_one_that_is_none(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8)))
    path = tmp_path / "labels.gz"
    for content in (whole[: len(whole) // 2], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged or cut short"):
            read_idx(path)


def test_refuses_a_missing_file_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "nothing")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_bytes_give_an_array_or_a_data_error(data: st.DataObject) -> None:
    values = np.arange(data.draw(st.integers(1, 40)), dtype=np.uint8)
    content = bytearray(idx_bytes(values))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    packed = data.draw(st.booleans())
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("file.gz" if packed else "file")
        path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
        try:
            result = read_idx(path)
        except DataError:
            return
    # Only a file that says exactly what it holds may pass.
    assert idx_bytes(result) == bytes(content)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "pattern", ["{part}-{kind}-idx{axes}-ubyte", "{part}-{kind}.idx{axes}-ubyte"]
)
def test_loads_a_quartet_in_all_its_spellings(tmp_path: Path, pattern: str, compress: bool) -> None:
    write_quartet(tmp_path, [2, 0, 1, 0], [1, 2], pattern, compress)

    train, test = load_idx(tmp_path, "train"), load_idx(tmp_path, "test")

    assert train.images.shape == (4, 1, 5, 4)
    assert train.labels.tolist() == [2, 0, 1, 0]
    assert test.labels.tolist() == [1, 2]
    assert train.classes == test.classes == ("0", "1", "2")
    assert (train.name, train.origin) == (tmp_path.name, str(tmp_path))


def test_classes_are_the_labels_that_occur(tmp_path: Path) -> None:
    # EMNIST letters are labelled from 1 on: there is no class 0.
    write_quartet(tmp_path, [1, 3, 1], [3])

    assert load_idx(tmp_path, "train").classes == ("1", "3")
    assert load_idx(tmp_path, "train").labels.tolist() == [0, 1, 0]
    assert load_idx(tmp_path, "test").labels.tolist() == [1]


def test_refuses_a_test_label_that_was_never_trained_on(tmp_path: Path) -> None:
    write_quartet(tmp_path, [0, 1], [0, 7])

    with pytest.raises(DataError, match=r"test labels hold 7, which never occurs .*\(0, 1\)"):
        load_idx(tmp_path, "test")


def test_refuses_images_and_labels_that_do_not_belong_together(tmp_path: Path) -> None:
    write_quartet(tmp_path, [0, 1, 0], [0])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.array([0, 1], dtype=np.uint8)))

    with pytest.raises(DataError, match="3 images but 2 labels"):
        load_idx(tmp_path, "train")


def test_refuses_labels_where_images_should_be(tmp_path: Path) -> None:
    write_quartet(tmp_path, [0, 1], [0])
    labels = tmp_path / "train-labels-idx1-ubyte"
    (tmp_path / "train-images-idx3-ubyte").write_bytes(labels.read_bytes())

    with pytest.raises(DataError, match="images have 1 axes, but must have 3"):
        load_idx(tmp_path, "train")


def test_the_training_part_loads_where_there_is_no_test_part(tmp_path: Path) -> None:
    write_quartet(tmp_path, [0, 1], [0])
    for path in tmp_path.glob("t10k*"):
        path.unlink()

    assert load_idx(tmp_path, "train").num_images == 2
    with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte\.gz"):
        load_idx(tmp_path, "test")
