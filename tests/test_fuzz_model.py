"""Checkpoints, models, and what is given to `predict`: an answer, or one line that refuses it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import LIMIT, Tally, damaged, fuzz
from hypothesis import strategies as st
from PIL import Image

from data.images import DataError, ImageShape
from data.one_line import is_text
from model.checkpoint import load_checkpoint, load_model, save_checkpoint, save_model
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.tensor_file import CheckpointError, read_tensors, write_tensors
from model.train import Training, fit
from search.handover.predict import find_model, predict
from search.record.study import StudyError

pytestmark = [LIMIT, pytest.mark.usefixtures("one_thread")]

SHAPE = ImageShape(channels=1, height=6, width=5, num_classes=3)
CLASSES = ("coat", "bag", "boot")
IMAGES = torch.zeros(8, 1, 6, 5, dtype=torch.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a whole checkpoint and a whole model."""
    config = Configuration(
        network=NetworkConfig(filters=(2,), dense_width=3, dropout=0.1),
        training=TrainingConfig(epochs=2, learning_rate=0.01, batch_size=4, optimizer="adamw"),
    )
    training = Training.start(config, SHAPE, [90.0], [50.0], 7, "cpu")
    for _ in fit(training, (IMAGES, torch.arange(8) % 3), None, until=1):
        pass
    folder = tmp_path_factory.mktemp("files")
    found = {kind: folder / f"{kind}.safetensors" for kind in ("checkpoint", "model")}
    save_checkpoint(training, found["checkpoint"], {"epochs": [{"val_accuracy": 0.5}]})
    save_model(training, found["model"], classes=CLASSES, metrics={})
    return found


_WIDE = st.sampled_from(
    [0, 1, 2, 3, -1, 4096, 65_536, 2**31, 2**63, 2**64, 10**400, 1.0, 28.5, -0.0, 1e308, 1e-320,
     float("nan"), float("inf"), True, None, "", "1", "coat", "\x1b[2J", "\ud800", "x" * 9_000,
     [], [1], [[1]], [0.0] * 9, {}, {"a": 1}, ["coat", "bag", "boot", "hat"], [1, 2, 3], "abc",
     ["coat", "bag\n", "boot"], json.loads("[" * 200 + "]" * 200)]
)  # fmt: skip
_DTYPES = [torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64]
_DTYPES += [torch.float8_e5m2, torch.bfloat16, torch.float32]


def places_of(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the keys that lead to every value of a header."""
    inner = value.items() if isinstance(value, dict) else ()
    return [at, *(place for key, item in inner for place in places_of(item, (*at, key)))]


@st.composite
def headers(draw: Any, header: dict[str, Any]) -> dict[str, Any]:
    """Draw a header with some values changed, removed or added."""
    changed: dict[str, Any] = json.loads(json.dumps(header))
    for _ in range(draw(st.integers(0, 2))):
        *path, last = draw(st.sampled_from(places_of(header)[1:]))
        place = changed
        for key in path:
            place = place[key] if isinstance(place.get(key), dict) else place
        way = draw(st.sampled_from(["change", "change", "remove", "add"]))
        if way == "remove":
            place.pop(last, None)
        else:
            place[last if way == "change" else "more"] = draw(_WIDE)
    return changed


@st.composite
def tensors(draw: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Draw the tensors with some missing, renamed, of another shape or kind, or not finite."""
    changed = dict(given)
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(changed)))
        tensor = changed[key]
        way = draw(st.sampled_from(["remove", "rename", "shape", "kind", "nan", "empty", "add"]))
        if way == "remove" and len(changed) > 1:
            del changed[key]
        elif way == "rename":
            changed[
                draw(st.sampled_from(["model.x", "optimizer.x", "optimizer.99.y", "x", ""]))
            ] = changed.pop(key)
        elif way == "shape":
            changed[key] = tensor.reshape(-1, *[1] * draw(st.integers(0, 40)))
        elif way == "kind" and not tensor.is_complex():
            changed[key] = tensor.to(draw(st.sampled_from(_DTYPES)))
        elif way == "nan" and tensor.is_floating_point():
            changed[key] = torch.full_like(tensor, draw(st.sampled_from([np.nan, np.inf, -1e38])))
        elif way == "empty":
            changed[key] = tensor.new_empty(draw(st.sampled_from([(0,), (0, 3), ()])))
        elif way == "add":
            changed["model.more"] = tensor.clone()
    return changed


_ENTRIES = st.sampled_from(
    [{"shape": [2**62, 2**62]}, {"shape": [-1]}, {"shape": [0, 2**62]}, {"shape": [1] * 900}]
    + [{"dtype": kind} for kind in ("F4", "F6_E2M3", "F8_E8M0", "C64", "U64", "X", "")]
    + [{"data_offsets": pair} for pair in ([0, 0], [4, 0], [0, 2**63], [-1, 1], [0])]
    + [{"shape": []}, {"shape": "1"}, {"dtype": 1}, {}]
)


@st.composite
def layouts(draw: Any, content: bytes) -> bytes:
    """Draw a safetensors file whose own header is well-formed JSON and says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(outer)))
        if key == "__metadata__":
            outer[key] = draw(st.sampled_from([{}, {"fashion-search": "{}"}, {"a": "b"}, [], 1]))
            outer[key] = draw(st.sampled_from([outer[key], {"fashion-search": "[" * 9_000}]))
        elif isinstance(outer[key], dict):
            outer[key] = outer[key] | draw(_ENTRIES)
    text = json.dumps(outer).encode()
    stated = draw(st.sampled_from([len(text)] * 5 + [0, 1, 10**8, 2**63, 2**64 - 1]))
    return struct.pack("<Q", stated) + text + content[8 + length :]


def test_a_damaged_checkpoint_is_used_whole_or_refused_in_one_line(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "f.safetensors"
    content = {kind: place.read_bytes() for kind, place in files.items()}
    inside = {kind: read_tensors(place) for kind, place in files.items()}

    def check(tally: Tally, draw: Any) -> None:
        kind = draw(st.sampled_from(["checkpoint", "model"]))
        way = draw(st.sampled_from(["bytes", "layout", "header", "header", "tensors", "tensors"]))
        header, values = inside[kind]
        if way == "bytes":
            end = 8 + struct.unpack("<Q", content[kind][:8])[0]
            path.write_bytes(draw(damaged(content[kind], (8, end))))
        elif way == "layout":
            path.write_bytes(draw(layouts(content[kind])))
        else:  # with the right digest: only the meaning is wrong
            header = draw(headers(header)) if way == "header" else header
            values = draw(tensors(values)) if way == "tensors" else values
            write_tensors(path, header, values)
        if kind == "checkpoint":
            found = tally.answer(lambda: load_checkpoint(path, "cpu"))
            if found is not None:  # and it can go on from there
                for _ in fit(found[0], (IMAGES, torch.arange(8) % 3), None):
                    pass
        else:
            model = tally.answer(lambda: load_model(path, "cpu"))
            if model is not None:
                assert len(model.classes) == model.shape.num_classes
                assert all(map(is_text, model.classes))

    fuzz("checkpoints", CheckpointError, check)


def put(place: Path, kind: str, model: Path) -> None:
    """Put something at a place where a model or a picture is looked for."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "model":
        shutil.copy(model, place)
    elif kind == "half":
        place.write_bytes(model.read_bytes()[:500])
    elif kind == "picture":
        Image.new("L", (5, 6)).save(place, "PNG")
    elif kind == "rows":
        place.write_text("1," * 29 + "1\n")
    elif kind == "empty":
        place.touch()
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to({"loop": place, "nowhere": "/nowhere/x", "zero": "/dev/zero"}[kind])


_KINDS = ["half", "empty", "folder", "pipe", "loop", "nowhere", "zero", "picture", "rows"]
_INPUTS = ["a.png", "b.JPG", "c.csv", "d.csv.gz", "e.txt", "deep/f.png", "deep/er", "g\n\udcff.png"]


def test_predict_answers_every_image_or_says_why_not(
    files: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "place"
    bad = tmp_path / "bad.safetensors"
    header, values = read_tensors(files["model"])

    def check(tally: Tally, draw: Any) -> None:
        shutil.rmtree(root, ignore_errors=True)
        model = files["model"]
        if draw(st.integers(0, 2)) == 0:
            model = bad
            write_tensors(bad, draw(headers(header)), draw(tensors(values)))
        place = root / draw(
            st.sampled_from(["model.safetensors", "export/model.safetensors", "final/model"])
        )
        put(place, draw(st.sampled_from(["model"] * 9 + _KINDS)), model)
        names = draw(st.lists(st.sampled_from(_INPUTS), min_size=1, max_size=3, unique=True))
        for name in names:
            right = "rows" if "csv" in name else "picture"
            put(root / "in" / name, draw(st.sampled_from([right] * 9 + _KINDS)), model)
        inputs = [root / "in"] if draw(st.booleans()) else [root / "in" / name for name in names]
        top = draw(st.integers(1, 5))
        found = tally.answer(lambda: predict(find_model(root), inputs, top=top))
        for prediction in found or ():
            assert set(prediction.labels) <= set(CLASSES)
            assert top < 3 or sum(prediction.probabilities) > 0.99

    fuzz("models to predict", (CheckpointError, DataError, StudyError), check)


def test_a_network_larger_than_its_file_is_refused_before_it_is_built(
    files: dict[str, Path], tmp_path: Path
) -> None:
    header, values = read_tensors(files["model"])
    header["shape"] = {"channels": 1, "height": 10**6, "width": 10**6, "num_classes": 3}
    write_tensors(tmp_path / "f", header, values)
    with pytest.raises(CheckpointError, match=r"its network has .* parameters, but it holds"):
        load_model(tmp_path / "f", "cpu")


def test_a_network_for_images_that_no_memory_holds_is_refused_before_they_are_read(
    tmp_path: Path,
) -> None:
    config = Configuration(
        network=NetworkConfig(filters=(2,), head="average"),  # of one size for images of any
        training=TrainingConfig(epochs=1, learning_rate=0.1),
    )
    save_model(
        Training.start(config, SHAPE, [90.0], [50.0], 7, "cpu"),
        tmp_path / "f",
        classes=CLASSES,
        metrics={},
    )
    header, values = read_tensors(tmp_path / "f")
    header["shape"] |= {"height": 10**6, "width": 10**6}
    write_tensors(tmp_path / "f", header, values)
    Image.new("L", (5, 6)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: needs .* GB of memory"):
        predict(find_model(tmp_path / "f"), [tmp_path / "a.png"], top=1)


def test_a_model_that_diverged_labels_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    header, values = read_tensors(files["model"])
    values["model.classifier.bias"] = torch.full((3,), torch.nan)
    write_tensors(tmp_path / "f", header, values)
    Image.new("L", (5, 6)).save(tmp_path / "a.png")
    with pytest.raises(StudyError, match="its training diverged"):
        predict(find_model(tmp_path / "f"), [tmp_path / "a.png"], top=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("optimizer.0.exp_avg"), "for some parameters and not for others"),
        (
            lambda state: state.update(
                {"optimizer.0.exp_avg": state["optimizer.0.exp_avg"].half()}
            ),
            "'0.exp_avg' is of torch.float16, its parameter of torch.float32",
        ),
    ],
)
def test_half_the_state_of_an_optimizer_is_refused(
    files: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    message: str,
) -> None:
    header, values = read_tensors(files["checkpoint"])
    change(values)
    write_tensors(tmp_path / "f", header, values)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "f", "cpu")
