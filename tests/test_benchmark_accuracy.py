"""The benchmarks of accuracy: recipes side by side, and one change at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import ablation, accuracy
from benchmarks.accuracy_figure import build_figure
from benchmarks.epoch_images import trained_images
from benchmarks.published import FASHION, PUBLISHED
from benchmarks.recipes import RECIPES
from benchmarks.refusals import check_device, one_line
from benchmarks.side_by_side import Job, train_all
from data.images import DataError
from data.loader import as_tensors
from data.source import load_test, load_train
from model.cnn import pixel_statistics
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.geometry import network_cost
from model.train import Training, fit, loader_of
from search.config.config import DataSection
from search.record.dataset import load_images

SMALL = Configuration(
    network=NetworkConfig(filters=(4,), head="average"),
    training=TrainingConfig(epochs=2, learning_rate=0.1, batch_size=64, flip=True),
)
DATA = DataSection(
    source="synthetic", synthetic_train=600, synthetic_test=100, validation_images=100
)
OPTIONS = ["--data", "synthetic", "--images", "600", "--validation-images", "100", "--epochs", "1"]


@pytest.mark.usefixtures("one_thread")
def test_a_job_is_the_training_that_a_trial_would_be() -> None:
    jobs = [Job(name="small", configuration=SMALL, seed=seed) for seed in (0, 1)]
    found = {row["seed"]: row for row in train_all(jobs, DATA, processes=1)}
    images = load_images(DATA)
    train = as_tensors(images.train, "cpu")
    training = Training.start(SMALL, FASHION, *pixel_statistics(train[0]), seed=1, device="cpu")
    last = list(fit(training, train, as_tensors(images.validation, "cpu")))[-1]
    row = found[1]
    assert (row["accuracy"], row["loss"]) == (last.val_accuracy, last.val_loss)
    assert row["train_loss"] == last.train_loss and found[0]["train_loss"] != last.train_loss
    assert 0 <= row["flip_accuracy"] <= 1 and 0 < row["seconds"] < row["wall_seconds"]


@pytest.mark.usefixtures("one_thread")
def test_on_the_test_images_all_others_are_trained_on() -> None:
    job = Job(name="small", configuration=SMALL, seed=0)
    row = next(train_all([job], DATA, on="test", processes=1))
    train = as_tensors(load_train(DATA.spec()), "cpu")
    training = Training.start(SMALL, FASHION, *pixel_statistics(train[0]), seed=0, device="cpu")
    last = list(fit(training, train, as_tensors(load_test(DATA.spec()), "cpu")))[-1]
    assert (row["accuracy"], row["loss"]) == (last.val_accuracy, last.val_loss)
    assert row["train_loss"] == last.train_loss


def test_the_accuracies_of_seeds_become_a_mean_with_its_interval() -> None:
    rows = [
        {"name": "tiny", "seed": s, "accuracy": a, "flip_accuracy": a + 0.01, "seconds": 2.0}
        for s, a in enumerate((0.90, 0.92, 0.94))
    ]
    found = accuracy.summary(rows, {"tiny": RECIPES["tiny"], "laptop": RECIPES["laptop"]})
    assert list(found) == ["tiny"]
    of = found["tiny"]
    assert of["accuracy_mean"] == pytest.approx(0.92) and of["accuracy_sd"] == pytest.approx(0.02)
    assert of["accuracy_ci95"] == pytest.approx(4.3027 * 0.02 / np.sqrt(3), rel=1e-3)
    assert of["flip_accuracy_mean"] == pytest.approx(0.93) and of["seeds"] == 3
    alone = accuracy.summary(rows[:1], {"tiny": RECIPES["tiny"]})["tiny"]
    assert alone["accuracy_sd"] is None and alone["accuracy_ci95"] is None


def test_tiny_is_of_the_size_that_it_is_drawn_beside() -> None:
    small = next(row for row in PUBLISHED if row.bound == "<= ")
    assert network_cost(RECIPES["tiny"].network, FASHION).parameters <= (small.parameters or 0)


@pytest.mark.parametrize("images", [100, 256, 300, 512, 600])
def test_an_epoch_trains_on_the_images_of_its_loader(images: int) -> None:
    training = Training.start(SMALL, FASHION, [0.0], [1.0], seed=0, device="cpu")
    batch = 256
    training.configuration = replace(SMALL, training=replace(SMALL.training, batch_size=batch))
    pixels = torch.zeros(images, 1, 28, 28, dtype=torch.uint8)
    labels = torch.zeros(images, dtype=torch.int64)
    served = sum(len(taken) for _, taken in loader_of(training, pixels, labels).epoch(1))
    assert trained_images(images, batch) == served


Refuse = Callable[[list[str]], int]


@pytest.mark.parametrize("main", [accuracy.main, ablation.main])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "cuda"], "--device is cuda, but PyTorch sees no CUDA devices here"),
        (["--device", "tpu"], "--device is 'tpu', but must be cpu, cuda or cuda:N"),
        (["--images", "-3"], "train_images: Input should be greater than 0"),
        (["--images", "5"], "with 5 validation images"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    main: Refuse,
    options: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([*OPTIONS, *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {told}") and said.err.count("\n") == 1
    assert said.out == ""


def test_a_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_device("cuda:0")
    with pytest.raises(ValueError, match=r"cuda:1, but PyTorch sees 1 CUDA device here"):
        check_device("cuda:1")


def test_test_images_that_are_not_there_are_missed_before_any_training(tmp_path: Path) -> None:
    pixels, labels = bytes(20 * 28 * 28), bytes([0, 1] * 10)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">4i", 2051, 20, 28, 28) + pixels
    )
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 20) + labels)
    data = DataSection(source=str(tmp_path), validation_images=4)
    assert load_images(data).everything.num_images == 20
    with pytest.raises(DataError, match="t10k") as caught:
        next(train_all([Job(name="small", configuration=SMALL, seed=0)], data, on="test"))
    assert "\n" not in one_line(caught.value)


def test_the_command_prints_both_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "out.json", tmp_path / "out.png"
    command = ["--recipes", "tiny", "--seeds", "2", "--processes", "1", *OPTIONS]
    assert accuracy.main([*command, "--json", str(out), "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "DenseNet-BC" in printed and "tiny seed 1" in printed
    found = json.loads(out.read_text())
    assert found["recipes"]["tiny"]["seeds"] == 2 and len(found["published"]) == len(PUBLISHED)
    assert figure.read_bytes().startswith(b"\x89PNG")


def _answer(path: Path, name: str, seeds: tuple[int, ...], **changes: Any) -> Path:
    """Write an answer as `--json` does, of accuracies that rise by a point a seed from 0.92."""
    options = {"on": "test", "data": "fashion-mnist", "images": "None"}
    options |= {"validation_images": "6000", "processes": "2", "threads": "1", "device": "cpu"}
    rows = [
        {
            "name": name,
            "seed": seed,
            "accuracy": 0.92 + seed / 100,
            "flip_accuracy": 0.93,
            "seconds": 5.0,
        }
        for seed in seeds
    ]
    recipes = {name: {"configuration": RECIPES[name].to_dict()}}
    answer = {"conditions": options | changes, "recipes": recipes, "rows": rows}
    path.write_text(json.dumps(answer))
    return path


def test_answers_are_put_together_and_drawn_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "train_all", None)
    first = _answer(tmp_path / "a.json", "tiny", (0, 2))
    rest = _answer(tmp_path / "b.json", "tiny", (1,), device="cuda")
    other = _answer(tmp_path / "c.json", "laptop", (0,))
    found, conditions = accuracy.merged([first, rest, other])
    assert {name: of["seeds"] for name, of in found.items()} == {"tiny": 3, "laptop": 1}
    assert found["tiny"]["accuracy_mean"] == pytest.approx(0.93)
    assert found["tiny"]["accuracy_sd"] == pytest.approx(0.01)
    assert [of["device"] for of in conditions] == ["cpu", "cuda", "cpu"]
    figure = tmp_path / "out.png"
    answers = ["--from", *map(str, (first, rest, other))]
    assert accuracy.main([*answers, "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "test accuracy in percent" in printed and "on cpu; or" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (lambda path: _answer(path, "tiny", (0,)), "has tiny seed 0, given before it"),
        (lambda path: _answer(path, "tiny", (1,), on="validation"), "has on validation, "),
        (lambda path: path, "is no answer that --json has written: FileNotFoundError"),
        (lambda path: path.write_text('{"variants": {}}') and path, "KeyError: 'recipes'"),
    ],
)
def test_answers_that_do_not_go_together_are_refused(
    second: Callable[[Path], Path], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _answer(tmp_path / "a.json", "tiny", (0,))
    path = second(tmp_path / "b.json")
    assert accuracy.main(["--from", str(first), str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path} ") and told in said and said.count("\n") == 1


def test_another_configuration_of_the_same_name_is_refused(tmp_path: Path) -> None:
    first = _answer(tmp_path / "a.json", "tiny", (0,))
    answer = json.loads(_answer(tmp_path / "b.json", "tiny", (1,)).read_text())
    answer["recipes"]["tiny"]["configuration"]["training"]["epochs"] = 3
    (tmp_path / "b.json").write_text(json.dumps(answer))
    with pytest.raises(ValueError, match="another configuration of tiny"):
        accuracy.merged([first, tmp_path / "b.json"])


def test_what_is_drawn_from_answers_is_not_also_trained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(["--from", "a.json", "--first-seed", "3"])
    assert "--from trains nothing: leave out --first-seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "points", [{"tiny": 94.0}, {n: 92 + 0.6 * i for i, n in enumerate(RECIPES)}]
)
def test_no_label_of_the_picture_lies_on_another(points: dict[str, float]) -> None:
    from matplotlib import pyplot as plt

    found = {
        name: {
            "parameters": network_cost(RECIPES[name].network, FASHION).parameters,
            "epochs": 9,
            "seeds": 3,
            "accuracy_mean": percent / 100,
            "accuracy_sd": 0.001,
        }
        for name, percent in points.items()
    }
    figure = build_figure(found, on="test")
    try:
        figure.draw_without_rendering()
        (axis,) = figure.axes
        boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
        assert len(boxes) == len(found) + len(PUBLISHED)
        assert not [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
        room = axis.get_window_extent()
        assert all(room.contains(*corner) for box in boxes.values() for corner in box.get_points())
        assert "JAHS-Bench-201 (validation)" in boxes
    finally:
        plt.close(figure)


def test_a_change_is_put_into_the_base() -> None:
    changed = ablation.changed(SMALL, "network.filters=[8,16] training.flip=false")
    assert (changed.network.filters, changed.training.flip) == ((8, 16), False)
    assert replace(changed.training, flip=True) == SMALL.training
    assert ablation.changed(SMALL, "network.head=flatten").network.head == "flatten"
    assert ablation.changed(SMALL, "training.learning_rate=2e-1").training.learning_rate == 0.2
    assert ablation.changed(SMALL, "") == SMALL
    assert changed.network.kernel_sizes == (3, 3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("training.flp=true", "did you mean 'flip'"),
        ("training.flip=yes", "flip is 'yes', but must be true or false"),
        ("flip=true", "give network.KEY=VALUE or training.KEY=VALUE"),
        ("training.flip", "is no change"),
    ],
)
def test_a_change_that_is_none_is_refused(settings: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ablation.changed(SMALL, settings)


def test_a_difference_is_paired_by_seed() -> None:
    base, more = (0.90, 0.80, 0.95), (0.92, 0.83, 0.96)
    rows = [
        {"name": name, "seed": s, "accuracy": a, "flip_accuracy": a, "seconds": seconds}
        for name, accuracies, seconds in ((ablation.BASE, base, 10.0), ("more", more, 15.0))
        for s, a in enumerate(accuracies)
    ]
    variants = {ablation.BASE: SMALL, "more": SMALL}
    found = ablation.summary(rows, variants)["more"]
    mean, low, high = found["less_base_points"]
    # The seeds differ by 15 points, the differences by 2: 2, 3 and 1.
    assert mean == pytest.approx(2.0)
    assert (low, high) == (pytest.approx(2 - 2.484, abs=1e-3), pytest.approx(2 + 2.484, abs=1e-3))
    assert found["seconds_ratio"] == pytest.approx(1.5)
    # A seed that only one of them has trained is left out.
    assert ablation.summary(rows[:-1], variants)["more"]["seeds"] == [0, 1]


def test_the_ablation_trains_base_and_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    command = ["--base", "tiny", "--set", "network.filters=[4]", "--change", "training.flip=false"]
    assert ablation.main([*command, "--seeds", "2", *OPTIONS, "--json", str(out)]) == 0
    assert "training.flip=false" in capsys.readouterr().out
    found = json.loads(out.read_text())["variants"]
    assert list(found) == ["base", "training.flip=false"]
    assert found["base"]["less_base_points"] == [0, 0, 0]
    recipes = [Configuration.from_dict(of["configuration"]).training for of in found.values()]
    assert recipes[1] == replace(recipes[0], flip=False) and recipes[0].epochs == 1
    assert ablation.main(["--change", "training.flp=1"]) == 2
    assert "did you mean 'flip'" in capsys.readouterr().err
