"""The benchmarks of accuracy: recipes side by side, and one change at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, accuracy
from benchmarks.accuracy import RECIPES, Job, train_all
from benchmarks.accuracy_figure import FASHION, PUBLISHED
from data.loader import as_tensors
from data.source import load_test, load_train
from model.cnn import pixel_statistics
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.geometry import network_cost
from model.train import Training, fit
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


def test_the_recipes_are_of_the_size_that_their_name_says() -> None:
    assert network_cost(RECIPES["tiny"].network, FASHION).parameters <= 100_000
    assert all(80 < row.accuracy < 97 for row in PUBLISHED)


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
