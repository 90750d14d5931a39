"""An export is complete, proven in a clean process, and not there if anything is wrong."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from data.folder import read_image
from data.images import ImageShape
from model.batch import MAPS_BYTES
from model.card import write_card
from model.checkpoint import LoadedModel, load_model
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.evaluate import evaluate_logits, predict_logits
from model.export import ExportError, export_model
from model.exported import open_export
from model.latency import Latency, measure_latency
from model.proof import prove
from model.seal import Look
from model.train import Training

CHECKOUT = Path(__file__).parent.parent
SHAPE = ImageShape(channels=1, height=12, width=12, num_classes=3)
CLASSES = ("T-shirt | top", "bag", "boot")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """Return an untrained network whose batch norms are not those of the start."""
    config = Configuration(
        network=NetworkConfig(
            filters=(3, 4), convs_per_block=2, residual=True, squeeze=True, dropout=0.3
        ),
        training=TrainingConfig(epochs=5, learning_rate=0.1),
    )
    training = Training.start(config, SHAPE, [80.0], [60.0], 11, "cpu")
    training.model.train()(torch.rand(16, 1, 12, 12) * 255)
    return LoadedModel(
        model=training.model.eval(),
        configuration=config,
        shape=SHAPE,
        classes=CLASSES,
        seed=11,
        epoch=2,
        metrics={"val_accuracy": 0.5},
    )


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 12, 12), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(
    loaded: LoadedModel, images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    labels = np.arange(20) % 3
    evaluation = evaluate_logits(
        predict_logits(loaded.model, torch.tensor(images)), labels, CLASSES
    ).to_dict()
    return export_model(
        loaded,
        tmp_path_factory.mktemp("study") / "export",
        proof_images=images,
        provenance={"study": "demo", "versions": {"torch": torch.__version__}},
        evaluation=evaluation | {"measured_on": "Measured once on the test set"},
        proof_labels=labels,
        looks=[
            Look(at="2026-01-02 03:04:05", reason="final", broke_seal=False, showed=True),
            Look(at="2026-01-03 03:04:05", reason="a | slip", broke_seal=True, showed=True),
        ],
        threads=1,
    )


def test_the_folder_is_whole_and_its_sums_are_right(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "SHA256SUMS",
        "example.py",
        "labels.json",
        "model.onnx",
        "model.pt2",
        "model.safetensors",
        "model_card.json",
        "model_card.md",
        "preprocessing.json",
        "requirements.txt",
    ]
    for line in (exported / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
    assert json.loads((exported / "labels.json").read_text()) == list(CLASSES)
    assert list(exported.parent.iterdir()) == [exported]


def test_the_exported_weights_are_the_networks(exported: Path, loaded: LoadedModel) -> None:
    again = load_model(exported / "model.safetensors", "cpu")
    assert again.configuration == loaded.configuration
    assert (again.classes, again.seed, again.epoch) == (CLASSES, 11, 2)
    for left, right in zip(again.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_onnx_program_has_the_promised_names_types_and_shapes(exported: Path) -> None:
    program = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(program)

    def port(value: Any) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    assert [port(v) for v in program.graph.input] == [
        ("pixels", TensorProto.FLOAT, ["N", 1, 12, 12])
    ]
    assert [port(v) for v in program.graph.output] == [("logits", TensorProto.FLOAT, ["N", 3])]


def test_the_programs_name_no_path_of_this_machine(exported: Path) -> None:
    here = str(Path(__file__).parent.parent).encode()
    for name in ("model.onnx", "model.pt2"):
        assert here not in (exported / name).read_bytes()


def test_the_cards_example_runs_where_the_export_is(exported: Path) -> None:
    card = (exported / "model_card.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", example],
        cwd=exported,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.strip() in {str([name]) for name in CLASSES}


def test_the_card_states_what_was_measured_and_where_it_ends(exported: Path) -> None:
    card = (exported / "model_card.md").read_text(encoding="utf-8")
    for text in (
        "| Parameters | 570 |",
        "Measured once on the test set: 20 images, accuracy",
        "2 of 5 scheduled epochs, seed 11",
        "0 T-shirt \\| top, 1 bag, 2 boot",
        "| study | demo |",
        "| `model.onnx` | onnxruntime",
        "Its most frequent mistake:",
        "| Test images | opened 2 times, the seal was broken |",
        "**The seal was broken**",
        "| 2026-01-03 03:04:05 | a \\| slip | yes | yes |",
        "MIT licence",
    ):
        assert text in card
    # Every table row has as many cells as its header, whatever the names contain.
    for table in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1


def test_what_classes_and_studies_are_called_is_no_markup_in_the_card(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    names = ("<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "`*_b_*` | &lt;")
    answers = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    evaluation = evaluate_logits(answers, np.array([1, 2, 0]), names).to_dict()
    bad = f"{names[0]} {names[1]}"
    write_card(
        tmp_path / "card.md",
        dataclasses.replace(loaded, classes=names),
        {"study": bad, "caution": bad, "processor": bad},
        evaluation | {"measured_on": bad},
        [],
        Latency(runtime="none", threads=1, batches=()),
        [Look(at="2026-01-02 03:04:05", reason=bad, broke_seal=False, showed=True)],
    )
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "<" not in card
    assert "[x]" not in card
    assert r"\[x\](javascript" in card
    assert "`*" not in card
    assert "&amp;lt;" in card
    assert "| `filters` | `[3, 4]` |" in card


def test_the_card_says_how_long_batches_of_four_sizes_take(exported: Path) -> None:
    card = (exported / "model_card.md").read_text(encoding="utf-8")
    facts = json.loads((exported / "model_card.json").read_text())
    latency = facts["latency"]
    assert latency["threads"] == 1
    assert f"{latency['runtime']} on the CPU, 1 thread," in card
    assert [row["batch"] for row in latency["batches"]] == [1, 8, 64, 256]
    for row in latency["batches"]:
        assert 0 < row["median_ms"] <= row["p90_ms"]
        assert row["runs"] >= 5
        assert f"| {row['batch']} | {row['median_ms']:.2f} ms | {row['p90_ms']:.2f} ms |" in card


def test_batches_that_no_memory_holds_are_not_timed(exported: Path) -> None:
    timed = measure_latency(
        exported / "model.onnx", SHAPE, bytes_each=MAPS_BYTES // 8, threads=1, seconds=0.0
    )
    assert [row.batch for row in timed.batches] == [1, 8]
    assert [row.runs for row in timed.batches] == [5, 5]


def test_the_card_for_programs_has_the_accuracy_by_onnx_and_every_look(
    exported: Path, loaded: LoadedModel, images: NDArray[np.uint8]
) -> None:
    facts = json.loads((exported / "model_card.json").read_text())
    right = predict_logits(loaded.model, torch.tensor(images)).argmax(1) == np.arange(20) % 3
    assert [proof["program"] for proof in facts["proofs"]] == ["model.onnx", "model.pt2"]
    assert {proof["accuracy"] for proof in facts["proofs"]} == {right.mean()}
    assert [look["broke_seal"] for look in facts["looks"]] == [False, True]
    assert facts["configuration"] == loaded.configuration.to_dict()


def test_what_a_picture_must_be_is_said_for_programs(exported: Path) -> None:
    said = json.loads((exported / "preprocessing.json").read_text())
    assert said["input"]["shape"] == ["N", 1, 12, 12]
    assert (said["input"]["dtype"], said["input"]["range"]) == ("float32", [0, 255])
    assert said["normalisation"]["mean"] == [80.0]
    assert said["ground"] is None  # these classes are not Fashion-MNIST's


def test_the_example_is_short() -> None:
    lines = (CHECKOUT / "model" / "example.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 25


def test_the_example_reads_a_picture_as_the_study_does(
    exported: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    draw = np.random.default_rng(5)
    for name, size in (("grey.png", (12, 12)), ("photo.png", (40, 31, 3)), ("cut.png", (9, 9, 4))):
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
        pixels = torch.tensor(read_image(tmp_path / name, SHAPE)[None])
        (live,) = predict_logits(loaded.model, pixels)
        shown = example(exported, tmp_path / name)
        assert shown.split("\t")[0] == CLASSES[live.argmax()]
        share = np.exp(live.max()) / np.exp(live).sum()
        assert float(shown.split("\t")[1]) == pytest.approx(share, abs=6e-5)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_example_reads_csv_with_and_without_names_and_labels(
    exported: Path,
    images: NDArray[np.uint8],
    loaded: LoadedModel,
    tmp_path: Path,
    header: bool,
    labelled: bool,
) -> None:
    answers = predict_logits(loaded.model, torch.tensor(images)).argmax(1)
    rows = images.reshape(20, -1)
    names = [f"pixel{i}" for i in range(144)]
    if labelled:
        truth = np.where(np.arange(20) < 5, (answers + 1) % 3, answers)
        rows, names = np.column_stack([truth, rows]), ["label", *names]
    np.savetxt(
        tmp_path / "i.csv", rows, "%d", ",", header=",".join(names) if header else "", comments=""
    )
    lines = example(exported, tmp_path / "i.csv").splitlines()
    assert [line.split("\t")[0] for line in lines[:20]] == [CLASSES[k] for k in answers]
    assert lines[20:] == (["accuracy 0.7500 of 20"] if labelled else [])


def example(folder: Path, file: Path) -> str:
    """Run the folder's example and return what it prints."""
    command = [sys.executable, "-I", str(folder / "example.py"), str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    return ran.stdout


def test_an_export_opens_without_torch_and_answers_as_the_network(
    exported: Path, loaded: LoadedModel, images: NDArray[np.uint8]
) -> None:
    opened = open_export(exported)
    assert (opened.shape, opened.classes) == (SHAPE, CLASSES)
    live = predict_logits(loaded.model, torch.tensor(images))
    np.testing.assert_allclose(opened.logits(images), live, atol=1e-4)
    script = "import sys, model.exported; print({'torch', 'ray', 'optuna'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (ran.stdout, ran.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.onnx", "flip", r"model\.onnx is not what was exported \(SHA-256"),
        ("model_card.md", "flip", r"model_card\.md is not what was exported"),
        ("model.onnx", "gone", r"model\.onnx is missing; copy the whole export"),
        ("SHA256SUMS", "gone", r"holds no export \(SHA256SUMS\)"),
        ("SHA256SUMS", "flip", r"SHA256SUMS"),
        ("model.pt2", "gone", None),  # not needed to answer
    ],
)
def test_an_export_that_was_changed_is_not_opened(
    exported: Path, tmp_path: Path, name: str, change: str, message: str | None
) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    if change == "gone":
        (copy / name).unlink()
    else:
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    if message is None:
        assert open_export(copy).classes == CLASSES
    else:
        with pytest.raises(ExportError, match=message):
            open_export(copy)


def test_a_folder_that_holds_something_is_left_alone(
    exported: Path, loaded: LoadedModel, images: NDArray[np.uint8]
) -> None:
    before = (exported / "SHA256SUMS").read_bytes()
    with pytest.raises(ExportError, match="export is already there: remove it or export to"):
        export_model(loaded, exported, proof_images=images, provenance={}, evaluation=None)
    assert (exported / "SHA256SUMS").read_bytes() == before


def test_images_of_another_shape_prove_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    for wrong in (np.zeros((2, 1, 28, 28), np.uint8), np.zeros((0, 1, 12, 12), np.uint8)):
        with pytest.raises(ExportError, match=r"must be uint8 of shape \('N', 1, 12, 12\)"):
            export_model(loaded, tmp_path / "e", proof_images=wrong, provenance={}, evaluation=None)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_does_not_run_leaves_no_export(
    loaded: LoadedModel,
    images: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_nonsense(model: object, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"nonsense")

    monkeypatch.setattr("model.export._write_programs", write_nonsense)
    with pytest.raises(ExportError, match=r"model\.onnx does not run in a clean process \(.*\)"):
        export_model(
            loaded, tmp_path / "export", proof_images=images, provenance={}, evaluation=None
        )
    assert list(tmp_path.iterdir()) == []


def write_sums_program(path: Path, factor: float) -> None:
    """Write an ONNX program that answers (sum of pixels) * factor * (1, 2)."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["pixels", "axes"], ["sum"], keepdims=0),
            helper.make_node("Unsqueeze", ["sum", "last"], ["column"]),
            helper.make_node("Mul", ["column", "factors"], ["logits"]),
        ],
        "sums",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
            helper.make_tensor("factors", TensorProto.FLOAT, [2], [factor, 2 * factor]),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.5, None),
        (0.5001, r"another class for 0 of 3 images and its logits differ by up to 0\.\d+"),
        (-0.5, "another class for 3 of 3 images"),
        (float("nan"), "differ by up to nan"),
    ],
)
def test_a_program_is_held_to_the_live_answers(
    factor: float, message: str | None, tmp_path: Path
) -> None:
    pixels = np.arange(1, 13, dtype=np.uint8).reshape(3, 1, 2, 2)
    live = pixels.sum(axis=(1, 2, 3))[:, None].astype(np.float32) * np.array([0.5, 1.0], np.float32)
    write_sums_program(tmp_path / "model.onnx", factor)
    if message is None:
        proof = prove(tmp_path / "model.onnx", pixels, live)
        assert (proof.num_images, proof.largest_difference) == (3, 0.0)
        assert proof.runtime.startswith("onnxruntime ")
    else:
        with pytest.raises(ExportError, match=message):
            prove(tmp_path / "model.onnx", pixels, live)


def test_logits_of_another_shape_are_no_proof(tmp_path: Path) -> None:
    write_sums_program(tmp_path / "model.onnx", 0.5)
    with pytest.raises(ExportError, match=r"shape \(1, 2\), but must give float32 of shape"):
        prove(tmp_path / "model.onnx", np.ones((1, 1, 2, 2), np.uint8), np.ones((1, 3), np.float32))


def test_the_proof_process_refuses_this_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A runtime that needs the project's own code is exactly what the proof must catch.
    monkeypatch.setitem(
        __import__("model.proof", fromlist=["_RUN"])._RUN, ".onnx", "import model.config\n"
    )
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match=r"model is refused in this process"):
        prove(tmp_path / "model.onnx", np.ones((1, 1, 2, 2), np.uint8), np.ones((1, 2), np.float32))
