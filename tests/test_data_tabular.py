"""CSV: every form that is allowed is read, every other is refused at its line."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import tabular
from data.images import FASHION_CLASSES, DataError, ImageShape
from data.tabular import load_csv, read_csv, read_pixels

FROM_0 = "label," + ",".join(f"pixel{i}" for i in range(784))
FROM_1 = "label," + ",".join(f"pixel{i}" for i in range(1, 785))


def table(num_rows: int, seed: int = 0) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (num_rows, 784))
    return np.concatenate([np.arange(num_rows)[:, None] % 10, pixels], axis=1)


def text(rows: NDArray[np.int64] | Sequence[Sequence[object]], header: str = "") -> str:
    lines = [header] if header else []
    return "\n".join([*lines, *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.mark.parametrize("header", ["", FROM_0, FROM_1, '"label"' + FROM_1[5:]])
@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_reads_labels_and_pixels_with_and_without_names(
    tmp_path: Path, header: str, name: str, newline: str
) -> None:
    rows = table(12)
    content = text(rows, header).replace("\n", newline).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    images, labels = read_csv(tmp_path / name)

    np.testing.assert_array_equal(labels, rows[:, 0])
    np.testing.assert_array_equal(images.reshape(12, 784), rows[:, 1:])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.shape == (12, 28, 28)


def test_a_byte_order_mark_and_a_missing_last_line_end_do_no_harm(tmp_path: Path) -> None:
    rows = table(3)
    path = tmp_path / "data.csv"
    for header in ("", FROM_1):
        path.write_text(text(rows, header).rstrip("\n"), encoding="utf-8-sig")
        np.testing.assert_array_equal(read_csv(path)[1], rows[:, 0])


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("256", "'256'"),
        ("-1", "'-1'"),
        ("", "blank"),
        ("  ", "blank"),
        ("12.0", "'12.0'"),
        ("1e2", "'1e2'"),
        ("abc", "'abc'"),
        ("nan", "'nan'"),
        ("NA", "'NA'"),
        ("True", "'True'"),
        ('"12"', "'\"12\"'"),
        ("1_0", "'1_0'"),
        ("99999999999999999999", "'99999999999999999999'"),
    ],
)
@pytest.mark.parametrize("header", ["", FROM_0])
def test_names_the_line_the_column_and_the_value_of_a_bad_pixel(
    tmp_path: Path, cell: str, shown: str, header: str
) -> None:
    rows = table(9).tolist()
    rows[6][400] = cell
    path = tmp_path / "data.csv"
    path.write_text(text(rows, header))
    line = 8 if header else 7

    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value) == (
        f"{path}, line {line}, column 401: the pixel is {shown}, "
        "but must be a whole number from 0 to 255"
    )


@pytest.mark.parametrize("label", ["10", "-1", "7.5", "shirt", ""])
def test_names_the_line_and_the_value_of_a_bad_label(tmp_path: Path, label: str) -> None:
    rows = table(4).tolist()
    rows[2][0] = label
    path = tmp_path / "data.csv"
    path.write_text(text(rows))

    with pytest.raises(DataError, match=r"line 3, column 1: the label is .* from 0 to 9"):
        read_csv(path)


def test_rows_are_read_in_pieces_and_a_late_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "_BLOCK", 50_000)
    rows = table(70)
    path = tmp_path / "data.csv"
    path.write_text(text(rows, FROM_1))
    np.testing.assert_array_equal(read_csv(path)[0].reshape(70, 784), rows[:, 1:])

    lines = text(rows, FROM_1).splitlines()
    lines[65] = lines[65].replace(",", ",x", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 66, column 2: the pixel is 'x"):
        read_csv(path)


@pytest.mark.parametrize("num_columns", [1, 784, 786])
@pytest.mark.parametrize("at", [0, 3])
def test_refuses_a_line_of_another_length(tmp_path: Path, num_columns: int, at: int) -> None:
    rows = table(5).tolist()
    rows[at] = (rows[at] * 2)[:num_columns]
    path = tmp_path / "data.csv"
    path.write_text(text(rows))

    with pytest.raises(DataError, match=f"line {at + 1}: has {num_columns} columns, .* 785"):
        read_csv(path)


@pytest.mark.parametrize("at", [0, 2, 4])
def test_refuses_a_blank_line(tmp_path: Path, at: int) -> None:
    lines = text(table(4)).splitlines()
    lines.insert(at, "")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(DataError, match=f"line {at + 1}: is blank"):
        read_csv(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (FROM_1.replace("label", "class"), "line 1: starts with 'class'"),
        (FROM_1.replace("pixel7,", "pixel8,"), "column 8: is named 'pixel8', .* 'pixel7'"),
        (FROM_0.replace("pixel0,", "pixel2,"), "column 2: is named 'pixel2', .* 'pixel1'"),
        (FROM_0.rsplit(",", 1)[0], "line 1: has 784 columns"),
    ],
)
def test_refuses_column_names_out_of_order(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text(table(2), header))

    with pytest.raises(DataError, match=message):
        read_csv(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: is blank"),
        (FROM_1.encode(), "holds no image"),
        (b"\xff\xfe\x00" * 400, "is no text"),
        (text(table(2)).encode() + b"\xff" + b",0" * 784, "is no text"),
    ],
)
def test_refuses_what_is_no_csv(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)

    with pytest.raises(DataError, match=message) as caught:
        read_csv(path)
    assert "\n" not in str(caught.value)


def test_refuses_half_a_gzip_file_and_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "data.csv.gz"
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(path)
    whole = gzip.compress(text(table(300)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_csv(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_text_gives_what_it_says_or_a_data_error(data: st.DataObject) -> None:
    rows = [[str(cell) for cell in row] for row in table(3).tolist()]
    cells = st.one_of(st.text(max_size=4), st.integers(-3, 300).map(str), st.floats().map(str))
    for _ in range(data.draw(st.integers(0, 2))):
        row = rows[data.draw(st.integers(0, 2))]
        row[data.draw(st.sampled_from([0, 1, 500, 784]))] = data.draw(cells)
    content = text(rows, data.draw(st.sampled_from(["", FROM_0, FROM_1])))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        path.write_text(content, encoding="utf-8", errors="surrogatepass", newline="")
        try:
            images, labels = read_csv(path)
        except DataError as error:
            assert "\n" not in str(error)
            return
    # What passes must be what Python itself reads in the cells.
    read = np.concatenate([labels[:, None], images.reshape(len(labels), 784)], axis=1)
    assert read.tolist() == [[int(cell) for cell in row] for row in rows]


def test_a_folder_with_both_files_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist_train.csv").write_text(text(table(20), FROM_1))
    (tmp_path / "fashion-mnist_test.csv.gz").write_bytes(gzip.compress(text(table(10)).encode()))

    train, test = load_csv(tmp_path, "train"), load_csv(tmp_path, "test")

    assert train.images.shape == (20, 1, 28, 28)
    assert test.num_images == 10
    assert train.classes == FASHION_CLASSES
    assert train.name == tmp_path.name


def test_a_folder_without_the_test_file_is_told_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks fashion-mnist_test\.csv"):
        load_csv(tmp_path, "test")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_pixels_to_predict_come_with_labels_or_without(
    tmp_path: Path, labelled: bool, named: bool
) -> None:
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (3, 12))
    header = ",".join(f"pixel{i}" for i in range(12)) if named else ""
    lines = rows
    if labelled:
        lines = np.concatenate([[[2], [0], [1]], rows], axis=1)
        header = f"label,{header}" if named else ""
    path = tmp_path / "rows.csv"
    path.write_text(text(lines, header))
    shape = ImageShape(channels=1, height=3, width=4, num_classes=3)

    np.testing.assert_array_equal(read_pixels(path, shape), rows.reshape(3, 1, 3, 4))


def test_pixels_of_another_size_and_for_a_colour_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2,3\n")
    with pytest.raises(DataError, match="has 3 columns, but must have 13"):
        read_pixels(path, ImageShape(channels=1, height=3, width=4, num_classes=3))
    with pytest.raises(DataError, match="the model takes colour"):
        read_pixels(path, ImageShape(channels=3, height=3, width=4, num_classes=3))
