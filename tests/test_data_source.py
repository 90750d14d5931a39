"""The one door: which form of data a folder holds, and what a spec may say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images import DataError
from data.source import DataSpec, describe_kind, load_test, load_train

ROOT = Path(__file__).parent.parent


def write_idx(folder: Path, prefix: str, number: int) -> None:
    labels = np.arange(number, dtype=np.uint8) % 2
    for kind, values in (("images-idx3", np.zeros((number, 4, 4), "u1")), ("labels-idx1", labels)):
        shape = np.array(values.shape, dtype=">u4").tobytes()
        content = bytes([0, 0, 8, values.ndim]) + shape + values.tobytes()
        (folder / f"{prefix}-{kind}-ubyte").write_bytes(content)


def write_csv(folder: Path, part: str, number: int) -> None:
    rows = ((f"{index % 10}" + ",7" * 784) for index in range(number))
    (folder / f"fashion-mnist_{part}.csv").write_text("\n".join(rows))


def write_folders(folder: Path, part: str, number: int) -> None:
    for name in "ab":
        (folder / part / name).mkdir(parents=True)
        for index in range(number // 2):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / part / name / f"{index}.png")


@pytest.mark.parametrize(
    ("kind", "write", "parts"),
    [
        ("idx", write_idx, ("train", "t10k")),
        ("csv", write_csv, ("train", "test")),
        ("folder", write_folders, ("train", "test")),
    ],
)
def test_each_form_is_known_by_its_names_and_loaded(
    tmp_path: Path, kind: str, write: Any, parts: tuple[str, str]
) -> None:
    write(tmp_path, parts[0], 20)
    # Known, and loaded, before there is any test file.
    assert describe_kind(tmp_path) == kind
    spec = DataSpec(source=str(tmp_path))
    assert load_train(spec).num_images == 20
    with pytest.raises(DataError):
        load_test(spec)

    write(tmp_path, parts[1], 10)
    assert load_test(spec).num_images == 10
    assert load_test(spec).classes == load_train(spec).classes


def test_image_folders_take_size_and_colour_from_the_spec(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 4)
    spec = DataSpec(source=str(tmp_path), image_size=12, colour=True)

    assert load_train(spec).images.shape == (4, 3, 12, 12)


def test_a_folder_of_nothing_known_is_told_what_was_found_and_what_is_allowed(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="holds nothing, but must hold one of these: an IDX"):
        describe_kind(tmp_path)
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(DataError, match=r"holds 0\.txt, .*4\.txt and 2 more, .*train/<class>"):
        describe_kind(tmp_path)


def test_a_folder_of_two_forms_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 4)
    write_csv(tmp_path, "train", 4)

    with pytest.raises(DataError, match="must hold only one of these"):
        describe_kind(tmp_path)


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='fashion-mnits: is no folder; give "fashion-mnist"'):
        load_train(DataSpec(source="fashion-mnits"))


def test_synthetic_data_say_what_they_are() -> None:
    spec = DataSpec(source="synthetic", synthetic_train=30, synthetic_test=20, seed=5)
    train, test = load_train(spec), load_test(spec)

    assert (train.num_images, test.num_images) == (30, 20)
    assert train.synthetic
    assert (train.name, train.origin) == ("synthetic", "drawn by this program, seed 5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "`source` is empty"),
        ({"image_size": 4}, "`image_size` is 4, but must be between 8 and 512"),
        ({"synthetic_train": 0}, "`synthetic_train` is 0"),
        ({"synthetic_test": 1}, "`synthetic_test` is 1"),
        ({"seed": -1}, "`seed` is -1"),
    ],
)
def test_refuses_a_spec_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSpec(**changes)


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda path: path.name)
def test_nothing_in_data_imports_to_the_right_or_heavily_at_once(path: Path) -> None:
    tree = ast.parse(path.read_text())
    anywhere = {name for node in ast.walk(tree) for name in _imported(node)}
    at_once = {name for node in tree.body for name in _imported(node)}

    assert not anywhere & {"model", "search", "ray", "optuna"}
    assert not at_once & {"pandas", "matplotlib", "seaborn", "PIL", "requests", "sklearn"}
    assert "torch" not in at_once or path.name == "loader.py"


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module.split(".")[0]}
    return set()
