"""Pictures and rows labelled: by an export or by weights, in a terminal or line by line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data.images import FASHION_CLASSES, DataError
from model.checkpoint import CheckpointError, load_model, save_model
from model.proof import ExportError
from search.handover.predict import (
    Prediction,
    bright_edged,
    find_model,
    open_model,
    predict,
    read_inputs,
    top_classes,
)
from search.handover.predict_page import MOST_SHOWN, predict_lines, predict_page
from search.record.final_metrics import write_metrics
from search.study_error import StudyError

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of three pictures of several sizes: dark, dark, and on a bright ground."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(1)
    for name, size in (("a.png", (28, 28)), ("b.jpg", (90, 61, 3))):
        pixels = np.zeros(size, np.uint8)
        pixels[size[0] // 3 : -size[0] // 3] = draw.integers(0, 256)
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(np.full((50, 50), 250, np.uint8)).save(folder / "c.png")
    return folder


def test_a_folder_with_a_damaged_picture_has_the_others_labelled(
    exported: Path, pictures: Path
) -> None:
    (pictures / "b2.png").write_bytes(b"no picture")
    model = find_model(exported)
    unread: list[str] = []
    found = predict(model, [pictures], top=1, skipped=unread.append)
    assert [Path(row.source).name for row in found] == ["a.png", "b.jpg", "c.png"]
    assert len(unread) == 1 and "b2.png" in unread[0]
    with pytest.raises(DataError, match=r"b2\.png"):
        predict(model, [pictures / "b2.png"], top=1, skipped=unread.append)  # it was asked for


def test_an_export_and_its_weights_say_the_same(exported: Path, pictures: Path) -> None:
    by_export = predict(find_model(exported), [pictures], top=10)
    by_program = predict(find_model(exported / "model.onnx"), [pictures], top=10)
    by_weights = predict(find_model(exported / "model.safetensors"), [pictures], top=10)
    assert by_export == by_program
    assert [Path(row.source).name for row in by_export] == ["a.png", "b.jpg", "c.png"]
    for left, right in zip(by_export, by_weights, strict=True):
        assert left.labels == right.labels
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-5)
        assert sum(left.probabilities) == pytest.approx(1)
        assert sorted(left.probabilities, reverse=True) == list(left.probabilities)


def test_an_export_is_asked_without_torch(exported: Path, pictures: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from search.handover.predict import find_model, predict
print(len(predict(find_model(Path({str(exported)!r})), [Path({str(pictures)!r})], top=1)))
print({{"torch", "ray", "optuna"}} & set(sys.modules))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (ran.stdout, ran.stderr) == ("3\nset()\n", "")


def test_inverted_pictures_are_those_that_were_drawn_so(exported: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "as-it-is.png")
    Image.fromarray(255 - pixels).save(tmp_path / "inverted.png")
    model = find_model(exported)
    (straight,) = predict(model, [tmp_path / "as-it-is.png"], top=10)
    (turned,) = predict(model, [tmp_path / "inverted.png"], top=10, invert=True)
    (other,) = predict(model, [tmp_path / "inverted.png"], top=10)
    assert straight.probabilities == turned.probabilities
    assert straight.probabilities != other.probabilities


def test_a_bright_ground_is_noticed(exported: Path, pictures: Path) -> None:
    model = find_model(exported)
    assert model.dark_ground
    _, pixels = read_inputs(model, [pictures])
    assert bright_edged(pixels).tolist() == [False, False, True]
    corner = np.zeros((1, 1, 28, 28), np.uint8)
    corner[:, :, :, 20:] = 255  # a sleeve may reach two corners
    assert not bright_edged(corner)[0]


def test_reading_is_told(exported: Path, pictures: Path) -> None:
    heard: list[tuple[int, int]] = []
    read_inputs(find_model(exported), [pictures], told=lambda *told: heard.append(told))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_shares_are_right_and_not_a_number_is_none() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [1000.0, 0.0, 0.0]], np.float32)
    classes, shares = top_classes(logits, 2)
    assert classes.tolist() == [[1, 2], [0, 1]]
    total = np.exp(1) + np.exp(2) + np.exp(3)
    assert shares[0] == pytest.approx([np.exp(3) / total, np.exp(2) / total])
    assert shares[1] == pytest.approx([1.0, 0.0])
    with pytest.raises(StudyError, match="not-a-number"):
        top_classes(np.array([[0.0, np.inf]], np.float32), 1)


def test_a_changed_export_and_a_strange_file_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no model"):
        find_model(tmp_path)
    (tmp_path / "SHA256SUMS").write_text((exported / "SHA256SUMS").read_text())
    with pytest.raises(ExportError, match=r"labels\.json is missing"):
        find_model(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        find_model(tmp_path / "weights.safetensors")


def shown(predictions: list[Prediction], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(predict_page(predictions, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_page_fits_the_terminal_and_keeps_the_ends_of_names(width: int) -> None:
    source = "/somewhere/" + "very-" * 40 + "far/picture-17.png"
    one = Prediction(source=source, labels=("Ankle boot", "Bag"), probabilities=(0.75, 0.05))
    lines = shown([one], width).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "17.png" in lines[1]
    assert "75.0 %" in lines[1]
    assert ("███████▌" in lines[1]) == (width > 40)
    assert "/" not in lines[2]


def test_of_many_images_a_page_shows_some_and_counts_all() -> None:
    many = [
        Prediction(source=f"{i}.png", labels=("Bag" if i % 4 else "Coat",), probabilities=(0.9,))
        for i in range(MOST_SHOWN + 60)
    ]
    text = shown(many, 80)
    assert f"... and {len(many) - MOST_SHOWN // 2} more images" in text
    assert f"{MOST_SHOWN // 2 - 1}.png" in text
    assert f"{MOST_SHOWN // 2}.png" not in text
    assert [line.split()[:2] for line in text.splitlines()[-2:]] == [["Bag", "75"], ["Coat", "25"]]


def test_lines_are_one_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        Prediction(source=f"{tmp_path}/a\tb.png", labels=("Bag", "Coat"), probabilities=(0.9, 0.1)),
        Prediction(source="/x.png", labels=("Bag", "Coat"), probabilities=(0.8, 0.2)),
    ]
    assert list(predict_lines(rows)) == [
        "a b.png\tBag\t0.9000\tCoat\t0.1000",
        "/x.png\tBag\t0.8000\tCoat\t0.2000",
    ]


def test_the_command_prints_lines_and_notes_a_bright_ground(exported: Path, pictures: Path) -> None:
    command = [sys.executable, "-m", "search", "predict", str(exported), str(pictures)]
    ran = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, timeout=50
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [Path(line[0]).name for line in lines] == ["a.png", "b.jpg", "c.png"]
    assert all(line[1] in FASHION_CLASSES and 0 < float(line[2]) <= 1 for line in lines)
    assert ran.stderr.startswith("note: bright at the edges: 1 image of 3;")
    assert ran.stderr.count("\n") == 1


def test_weights_alone_need_no_export(exported: Path, pictures: Path, tmp_path: Path) -> None:
    # The first seed diverged, and was left out.
    place = tmp_path / "study" / "final" / "winner-s1" / "model.safetensors"
    place.parent.mkdir(parents=True)
    save_model(
        load_model(exported / "model.safetensors", "cpu"),
        place,
        classes=FASHION_CLASSES,
        metrics={},
    )
    write_metrics(place.parent.parent, winners("winner-s1", _MODEL))
    found = predict(find_model(tmp_path / "study"), [pictures], top=1)
    assert [row.labels for row in found] == [
        row.labels for row in predict(find_model(exported), [pictures], top=1)
    ]


_MODEL = "ab" * 32


def winners(name: str, sha256: str) -> dict[str, Any]:
    """Return the content of a metrics.json with one final model, after a baseline's."""
    rows = [("seed-s0", "seed", "cd" * 32), (name, "winner", sha256)]
    return {"models": [{"name": n, "group": g, "model_sha256": s} for n, g, s in rows]}


@pytest.fixture
def with_export(exported: Path, tmp_path: Path) -> Path:
    """Return the folder of a study that was retrained after it was exported."""
    folder = tmp_path / "runs" / "mine"
    copy = shutil.copytree(exported, folder / "export")
    facts = json.loads((copy / "model_card.json").read_text())
    facts["provenance"]["model_sha256"] = _MODEL
    before = hashlib.sha256((copy / "model_card.json").read_bytes()).hexdigest()
    (copy / "model_card.json").write_text(json.dumps(facts))
    after = hashlib.sha256((copy / "model_card.json").read_bytes()).hexdigest()
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(before, after))
    (folder / "final").mkdir()
    return folder


def test_an_export_of_a_study_is_used_only_if_it_is_of_its_final_models(with_export: Path) -> None:
    metrics = with_export / "final"
    find_model(with_export)  # there are no final models: nothing says that it is old
    write_metrics(metrics, winners("winner-s0", _MODEL))
    find_model(with_export)
    open_model(with_export)
    write_metrics(metrics, winners("winner-s0", "ef" * 32))
    for opened in (find_model, open_model):
        with pytest.raises(StudyError) as caught:
            opened(with_export)
        assert str(caught.value) == (
            "the exported model of mine is older than its final models; run `export mine`"
        )
    find_model(with_export / "export")  # named itself
    assert open_model(with_export / "export").facts["provenance"]["model_sha256"] == _MODEL


@pytest.mark.parametrize("command", [["predict", "mine", "a.png"], ["serve", "mine"]])
def test_the_commands_refuse_an_old_export(with_export: Path, command: list[str]) -> None:
    write_metrics(with_export / "final", winners("winner-s0", "ef" * 32))
    words = [sys.executable, "-m", "search", *command, "--runs", str(with_export.parent)]
    ran = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "older than its final models; run `export mine`" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_another_program_is_not_taken_for_the_export_it_lies_in(
    exported: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "other.onnx").write_bytes(b"another network")
    with pytest.raises(StudyError, match=r"other\.onnx is no model\.onnx"):
        find_model(copy / "other.onnx")
    with pytest.raises(CheckpointError):
        find_model(copy / "model.pt2")
