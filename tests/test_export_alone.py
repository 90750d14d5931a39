"""An export stands alone: copied away, with onnxruntime and numpy only, on the real test images."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.images import FASHION_CLASSES, ImageShape
from model.checkpoint import LoadedModel
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.evaluate import evaluate_logits, predict_logits
from model.export import export_model
from model.train import Training, fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.usefixtures("one_thread")]

SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)


def published(part: str, num_images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the first of Fashion-MNIST's images (N, 1, 28, 28) and labels (N,), by hand."""
    folder = os.environ.get("FASHION_MNIST_DIR")
    if not folder:
        pytest.skip("FASHION_MNIST_DIR is not set: no real images")
    read = []
    for kind, start in (("images-idx3", 16), ("labels-idx1", 8)):
        path = Path(folder) / f"{part}-{kind}-ubyte"
        packed = path.with_name(f"{path.name}.gz")
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
        read.append(np.frombuffer(content, np.uint8, offset=start))
    images = read[0].reshape(-1, 1, 28, 28)[:num_images]
    return images.copy(), read[1][:num_images].astype(np.int64)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, float]]:
    """Return an exported folder, the test images as CSV, and what was measured of the network."""
    images, labels = published("train", 4000)
    config = Configuration(
        network=NetworkConfig(filters=(8, 16), pooling="stride"),
        training=TrainingConfig(epochs=2, learning_rate=0.1, batch_size=64),
    )
    training = Training.start(config, SHAPE, [72.9], [90.0], 3, "cpu")
    for _ in fit(training, (torch.from_numpy(images), torch.from_numpy(labels)), None):
        pass
    test_images, test_labels = published("t10k", 10_000)
    assert len(test_images) == 10_000
    logits = predict_logits(training.model.eval(), torch.from_numpy(test_images))
    evaluation = evaluate_logits(logits, test_labels, FASHION_CLASSES).to_dict()
    place = tmp_path_factory.mktemp("alone")
    loaded = LoadedModel(
        model=training.model,
        configuration=config,
        shape=SHAPE,
        classes=FASHION_CLASSES,
        seed=3,
        epoch=2,
        metrics={},
    )
    made = export_model(
        loaded, place / "made", proof_images=images[:300], provenance={}, evaluation=evaluation
    )
    copy = shutil.copytree(made, place / "elsewhere" / "model")
    shutil.rmtree(made)
    names = ",".join(["label", *(f"pixel{i}" for i in range(1, 785))])
    rows = np.column_stack([test_labels, test_images.reshape(-1, 784)])
    np.savetxt(place / "test.csv", rows, "%d", ",", header=names, comments="")
    answers = {"accuracy": evaluation["accuracy"]} | {
        str(i): float(k) for i, k in enumerate(logits.argmax(1))
    }
    return copy, place / "test.csv", answers


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has onnxruntime, numpy and what they ask for, and nothing else."""
    place = tmp_path_factory.mktemp("bare")
    create = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(create, check=True, timeout=60)
    (site,) = place.glob("lib/python*/site-packages")
    wanted, known = ["onnxruntime", "numpy"], set()
    while wanted:
        name = wanted.pop()
        if name in known:
            continue
        known.add(name)
        found = metadata.distribution(name)
        for path in {Path(file.parts[0]) for file in found.files or () if file.parts[0] != ".."}:
            if not (site / path).exists() and path.suffix != ".pth":
                (site / path).symlink_to(Path(str(found.locate_file(str(path)))).resolve())
        for line in found.requires or ():
            if "extra ==" not in line and (need := re.match(r"[\w.-]+", line)):
                wanted.append(need[0])
    return place / "bin" / "python"


def test_the_place_has_neither_torch_nor_our_code_nor_pillow(python: Path, tmp_path: Path) -> None:
    for name in ("torch", "model", "data", "search", "PIL"):
        tried = subprocess.run(
            [python, "-I", "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert f"No module named '{name}'" in tried.stderr


def test_the_example_answers_10_000_test_images_with_the_recorded_accuracy(
    alone: tuple[Path, Path, dict[str, float]], python: Path, tmp_path: Path
) -> None:
    folder, images, answers = alone
    ran = subprocess.run(
        [python, "-I", folder / "example.py", images],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.stderr == ""
    *lines, last = ran.stdout.splitlines()
    assert last == f"accuracy {answers['accuracy']:.4f} of 10000"
    assert answers["accuracy"] > 0.6  # it has learned: agreement on noise would say little
    labels = [FASHION_CLASSES[int(answers[str(i)])] for i in range(10_000)]
    assert [line.split("\t")[0] for line in lines] == labels
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert f"{answers['accuracy']:.2%}" in card
    assert "| 256 |" in card.partition("## Speed")[2].partition("## Network")[0]


def test_the_sums_are_checked_by_the_command_that_the_card_names(
    alone: tuple[Path, Path, dict[str, float]],
) -> None:
    folder, _, _ = alone
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == len(list(folder.iterdir())) - 1
