"""Final networks that are trained at once are those that are trained one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.images import ImageShape
from model import fused
from model.checkpoint import load_model
from model.cnn import CNN
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.final.bench import MODEL_FILE, Bench, FinalModel, train_group
from search.final.fusing import fused_together, pack
from search.final.training import train_models
from search.machine.slots import Slots
from search.record.dataset import load_images

pytestmark = pytest.mark.usefixtures("one_thread")

SYNTHETIC = DataSection(
    source="synthetic", synthetic_train=400, synthetic_test=100, validation_images=100
)
SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)
# Flat areas of a drawn garment give a 2x2 pool equal values but for the last digit: which of them
# is the largest, and where its gradient goes, then differs.
CLOSE = {"rtol": 1e-2, "atol": 1e-3}


def configuration(rate: float = 0.05, filters: tuple[int, ...] = (4,)) -> Configuration:
    return Configuration(
        network=NetworkConfig(filters=filters, dropout=0.1),
        training=TrainingConfig(
            epochs=3, learning_rate=rate, batch_size=64, precision="fp32", flip=True, ema=0.9
        ),
    )


def final(name: str, seed: int, held_out: int = 0, **changes: Any) -> FinalModel:
    given = {"configuration": configuration(), "epochs": 2, "split_seed": seed} | changes
    return FinalModel(name=name, group="winner", seed=seed, held_out=held_out, **given)


def run(
    epochs: Generator[tuple[str, EpochMetrics], None, list[dict[str, Any]]],
) -> tuple[list[tuple[str, int]], list[dict[str, Any]]]:
    """Return whose epochs were told of, in their order, and the outcomes."""
    told = []
    while True:
        try:
            name, metrics = next(epochs)
        except StopIteration as end:
            return told, end.value
        told.append((name, metrics.epoch))


@pytest.fixture(scope="module")
def bench() -> Bench:
    images = load_images(SYNTHETIC)
    return Bench.over(images.everything, images.fingerprint, torch.device("cpu"))


def assert_same_files(left: Path, right: Path) -> None:
    ours, theirs = (load_model(path / MODEL_FILE, "cpu") for path in (left, right))
    assert (ours.seed, ours.epoch) == (theirs.seed, theirs.epoch)
    assert ours.metrics.keys() == theirs.metrics.keys()
    for key in ("epoch", "train_loss", "train_accuracy", "learning_rate"):
        assert ours.metrics[key] == pytest.approx(theirs.metrics[key], rel=1e-3, abs=0.01)
    for key, tensor in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[key], tensor, **CLOSE)


@pytest.mark.parametrize("held_out", [0, 100])
def test_a_group_is_what_its_networks_are_alone(
    bench: Bench, held_out: int, tmp_path: Path
) -> None:
    models = [
        final("a", 1, held_out),
        final("b", 2, held_out, configuration=configuration(0.01)),
        final("c", 3, held_out),
    ]
    for place in ("alone", "together"):
        (tmp_path / place).mkdir()
    expected = [run(train_group(bench, [m], tmp_path / "alone"))[1][0] for m in models]
    told, outcomes = run(train_group(bench, models, tmp_path / "together"))
    assert told == [(name, epoch) for epoch in (1, 2) for name in "abc"]
    for model, ours, theirs in zip(models, outcomes, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["fingerprint"] == theirs["fingerprint"]
        for key in ours.keys() - {"seconds", "model_sha256", "fingerprint"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=0.01)
        kept = tmp_path / "together" / model.name
        assert kept.exists() == (held_out == 0)
        if held_out == 0:
            assert_same_files(kept, tmp_path / "alone" / model.name)


def test_one_that_diverges_does_not_end_the_others(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = CNN.__init__

    def sick(self: CNN, *args: Any) -> None:
        begin(self, *args)
        if torch.initial_seed() == 2:
            nn.init.constant_(self.classifier.weight, float("inf"))

    monkeypatch.setattr(CNN, "__init__", sick)
    models = [final("a", 1), final("b", 2), final("c", 3)]
    (tmp_path / "alone").mkdir()
    alone = run(train_group(bench, models[1:2], tmp_path / "alone"))
    (tmp_path / "together").mkdir()
    told, outcomes = run(train_group(bench, models, tmp_path / "together"))
    assert outcomes[1] == alone[1][0]
    assert outcomes[1]["diverged_at"] == 1
    assert "b" not in {name for name, _ in told}
    for number, name in ((0, "a"), (2, "c")):
        assert "model_sha256" in outcomes[number]
        assert [e for n, e in told if n == name] == [1, 2]
        run(train_group(bench, [models[number]], tmp_path / "alone"))
        assert_same_files(tmp_path / "together" / name, tmp_path / "alone" / name)
    assert not (tmp_path / "together" / "b").exists()


def test_who_seems_to_diverge_beside_others_is_judged_alone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fused.fit_fused

    def spilled(*args: Any, **kwargs: Any) -> Any:
        """As a kernel would that lets a neighbour's numbers in."""
        for rows in whole(*args, **kwargs):
            if rows[0].epoch == 2 and len(rows) == 3:
                rows[1] = dataclasses.replace(rows[1], train_loss=float("nan"))
            yield rows

    monkeypatch.setattr(fused, "fit_fused", spilled)
    models = [final("a", 1), final("b", 2), final("c", 3)]
    told, outcomes = run(train_group(bench, models, tmp_path))
    assert all("model_sha256" in outcome for outcome in outcomes)
    assert sorted(told) == [(name, epoch) for name in "abc" for epoch in (1, 2)]


def slots(count: int, gpus: float = 1.0) -> Slots:
    return Slots(count=count, threads=1, gpus=gpus)


def names(groups: list[list[FinalModel]]) -> list[list[str]]:
    return [[model.name for model in group] for group in groups]


def test_those_that_a_device_has_no_room_for_at_once_are_trained_one_by_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = fused.fit_fused

    def full(*arguments: Any, **named: Any) -> Any:
        epochs = together(*arguments, **named)
        yield next(epochs)
        raise torch.OutOfMemoryError("no room")  # as a GPU says it in the second epoch

    monkeypatch.setattr(fused, "fit_fused", full)
    models = [final("a", 1), final("b", 2)]
    for place in ("alone", "together"):
        (tmp_path / place).mkdir()
    told, outcomes = run(train_group(bench, models, tmp_path / "together"))
    assert sorted(told) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    for model, outcome in zip(models, outcomes, strict=True):
        expected = run(train_group(bench, [model], tmp_path / "alone"))[1][0]
        assert outcome["model_sha256"] == expected["model_sha256"]


def test_networks_that_can_be_are_put_together_and_all_slots_have_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(fused._LIMITED, "optimizer", ("sgd",))
    seeds = [final(f"s{n}", n) for n in range(6)]
    other = final("other", 9, configuration=configuration(filters=(8,)))
    longer = final("longer", 9, epochs=3)
    raced = final("raced", 9, held_out=100)
    adamw = configuration()
    adamw = dataclasses.replace(
        adamw, training=dataclasses.replace(adamw.training, optimizer="adamw")
    )
    refused = [final(f"adamw{n}", n, configuration=adamw) for n in range(2)]
    models = [*seeds, other, longer, raced, *refused]
    assert names(pack(models, slots(1), SHAPE, together=16)) == [
        ["s0", "s1", "s2", "s3", "s4", "s5"],
        *([name] for name in ("other", "longer", "raced", "adamw0", "adamw1")),
    ]
    assert names(pack(seeds, slots(1), SHAPE, together=4)) == [
        ["s0", "s2", "s4"],
        ["s1", "s3", "s5"],
    ]
    assert names(pack(seeds, slots(3), SHAPE, together=16)) == [
        ["s0", "s3"],
        ["s1", "s4"],
        ["s2", "s5"],
    ]
    assert len(pack(seeds, slots(8), SHAPE, together=16)) == 6
    assert len(pack(seeds, slots(1), SHAPE, together=1)) == 6


def test_large_networks_are_trained_alone() -> None:
    wide = configuration(filters=(2048,))
    models = [final(f"s{n}", n, configuration=wide) for n in range(6)]
    assert len(pack(models, slots(1), SHAPE, together=16)) == 3
    assert len(pack(models, slots(4, 0.25), SHAPE, together=16)) == 6


def test_on_a_cpu_each_is_trained_alone() -> None:
    assert fused_together(slots(2, 0.0)) == 1
    assert fused_together(slots(2, 0.5)) > 1


@pytest.mark.slow
def test_processes_train_networks_at_once_and_keep_the_same_ones(
    make_config: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    config = make_config(data=SYNTHETIC, resources={"max_concurrent": 1})
    images = load_images(config.data)
    models = [final(f"winner-s{n}", n) for n in range(2)] + [final("race", 5, 100)]
    told: list[tuple[str, int, int]] = []
    outcomes = {}
    for place, together in (("alone", 1), ("together", 4)):
        (tmp_path / place).mkdir()
        told.clear()
        outcomes[place] = {
            model.name: outcome
            for model, outcome in train_models(
                config,
                models,
                tmp_path / place,
                images,
                lambda name, longest, metrics: told.append((name, longest, metrics.epoch)),
                together=together,
            )
        }
        assert sorted(told) == sorted((m.name, 2, epoch) for m in models for epoch in (1, 2))
    # The last ones told of were trained at once: epoch by epoch, not network by network.
    assert [epoch for name, _, epoch in told if name != "race"] == [1, 1, 2, 2]
    for name in ("winner-s0", "winner-s1"):
        assert_same_files(tmp_path / "together" / name, tmp_path / "alone" / name)
    assert outcomes["together"]["race"]["val_accuracy"] == pytest.approx(
        outcomes["alone"]["race"]["val_accuracy"], abs=0.01
    )
