"""An export is complete, proven in a clean process, and not there if anything is wrong."""

import hashlib
import json
import re
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

from data.images import ImageShape
from model.checkpoint import LoadedModel, load_model
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.evaluate import evaluate_logits, predict_logits
from model.export import ExportError, export_model
from model.proof import prove
from model.train import Training

SHAPE = ImageShape(channels=1, height=12, width=12, num_classes=3)
CLASSES = ("T-shirt | top", "bag", "boot")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """Return an untrained network whose batch norms are not those of the start."""
    config = Configuration(
        network=NetworkConfig(filters=(3, 4), convs_per_block=2, residual=True, dropout=0.3),
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
    )


def test_the_folder_is_whole_and_its_sums_are_right(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "SHA256SUMS",
        "labels.json",
        "model.onnx",
        "model.pt2",
        "model.safetensors",
        "model_card.md",
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
        "| Parameters | 499 |",
        "Measured once on the test set: 20 images, accuracy",
        "2 of 5 scheduled epochs, seed 11",
        "0 T-shirt \\| top, 1 bag, 2 boot",
        "| study | demo |",
        "| `model.onnx` | onnxruntime",
        "Its most frequent mistake:",
        "MIT licence",
    ):
        assert text in card
    # Every table row has as many cells as its header, whatever the names contain.
    for table in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1


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
    live = pixels.sum(axis=(1, 2, 3))[:, None].astype(np.float32) * np.float32([0.5, 1.0])
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
