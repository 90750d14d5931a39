"""The benchmark of trials an hour: its stock trial, its clocks, and what it reads from a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.stock_trial import Net, Pictures, check, train
from benchmarks.trials import main
from benchmarks.trials_print import print_all
from benchmarks.trials_record import slot_time
from benchmarks.trials_step import STEP_PIECES, measure, profiled
from benchmarks.trials_study import NETWORKS, configuration_of, study_config
from data.images import ImageShape
from data.loader import as_tensors
from data.synthetic import draw_garments
from model.cnn import CNN, pixel_statistics
from model.config import TrainingConfig
from model.train import EpochMetrics
from search.record.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_stock_network_is_ours_layer_for_layer(network: str, shape: ImageShape) -> None:
    study = study_config(network, trials=1, epochs=1, images=1000, seed=0, data="synthetic")
    config = configuration_of(study).network
    images = draw_garments(16, part="train", seed=0)
    mean, std = pixel_statistics(torch.from_numpy(images.images))
    ours, stock = CNN(config, shape, mean, std).eval(), Net(config, shape).eval()
    weights = [v for k, v in ours.state_dict().items() if k not in ("mean", "std")]
    names = list(stock.state_dict())
    stock.load_state_dict(dict(zip(names, weights, strict=True)))
    pictures = Pictures(images, mean, std, flip=False)
    pixels = torch.stack([pictures[i][0] for i in range(len(pictures))])
    with torch.no_grad():
        expected = ours(torch.from_numpy(images.images))
        assert torch.allclose(stock(pixels), expected, rtol=1e-4, atol=1e-4)
    assert [pictures[i][1] for i in range(16)] == images.labels.tolist()


def test_a_stock_picture_is_mirrored_about_every_second_time() -> None:
    images = draw_garments(1, part="train", seed=0)
    plain = Pictures(images, [0.0], [255.0], flip=False)[0][0]
    torch.manual_seed(0)
    flipped = Pictures(images, [0.0], [255.0], flip=True)
    seen = [flipped[0][0] for _ in range(200)]
    mirrored = sum(torch.equal(picture, plain.flip(-1)) for picture in seen)
    assert sum(torch.equal(picture, plain) for picture in seen) == 200 - mirrored
    assert 70 < mirrored < 130


def test_the_stock_trial_learns_and_repeats() -> None:
    study = study_config("small", trials=1, epochs=4, images=1200, seed=0, data="synthetic")
    images = draw_garments(1280, part="train", seed=0)
    validation = draw_garments(200, part="test", seed=0)
    configuration = configuration_of(study)
    recipe = replace(configuration.training, batch_size=64, learning_rate=0.05)
    configuration = replace(configuration, training=recipe)
    mean, std = pixel_statistics(as_tensors(images, "cpu")[0])
    begun: list[str] = []
    runs = [
        list(train(configuration, images, validation, mean, std, 3, begun=lambda: begun.append("")))
        for _ in range(2)
    ]
    assert [row["epoch"] for row in runs[0]] == [1, 2, 3, 4] and len(begun) == 2
    assert runs[0][-1]["train_loss"] < 0.7 * runs[0][0]["train_loss"]
    assert runs[0][-1]["val_accuracy"] > 0.4
    for key in ("train_loss", "val_accuracy"):
        assert [row[key] for row in runs[0]] == [row[key] for row in runs[1]]


def test_what_the_stock_trial_does_not_follow_is_refused() -> None:
    study = study_config("small", trials=1, epochs=1, images=1000, seed=0, data="synthetic")
    configuration = configuration_of(study)
    check(configuration)
    with pytest.raises(ValueError, match="shift is 1, but the stock trial knows only 0"):
        check(replace(configuration, training=replace(configuration.training, shift=1)))
    with pytest.raises(ValueError, match="batch_norm is False"):
        check(replace(configuration, network=replace(configuration.network, batch_norm=False)))
    default = TrainingConfig(epochs=1, learning_rate=0.1)
    with pytest.raises(ValueError, match="optimizer is 'adamw'"):
        check(replace(configuration, training=replace(default, optimizer="adamw")))


def test_all_trials_of_the_study_are_one_configuration() -> None:
    study = study_config("laptop", trials=3, epochs=2, images=2000, seed=7, data="synthetic")
    found = [study.search_space().configuration(point) for point in study.points]
    rates = [configuration.training.learning_rate for configuration in found]
    assert len(set(rates)) == 3 and max(rates) / min(rates) < 1 + 1e-8
    assert {configuration.network for configuration in found} == {found[0].network}
    assert (study.budget.trials, study.seed, study.data.seed) == (3, 7, 0)


@pytest.mark.parametrize("who", ["stock", "ours"])
def test_a_profile_holds_every_piece_and_leaves_nothing_behind(who: str) -> None:
    before = CNN.forward, torch.Tensor.backward, torch.optim.SGD.step
    found = measure(  # type: ignore[arg-type]
        who, "small", images=1000, epochs=2, seed=0, data="synthetic", profile=True
    )
    assert (CNN.forward, torch.Tensor.backward, torch.optim.SGD.step) == before
    assert len(found["images_per_second"]) == 1 and found["parameters"] == 77_786
    pieces = found["profile"]
    assert list(pieces) == [*STEP_PIECES, "rest of the step", "validation", "checkpoint"]
    spent = {piece for piece, seconds in pieces.items() if seconds > 0}
    assert spent == pieces.keys() - ({"checkpoint"} if who == "stock" else set())


def test_a_validation_is_not_counted_as_steps(shape: ImageShape) -> None:
    study = study_config("small", trials=1, epochs=1, images=1000, seed=0, data="synthetic")
    model = CNN(configuration_of(study).network, shape, [0.0], [1.0])
    pixels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    with profiled() as seconds:
        with torch.inference_mode():
            model(pixels)
        assert not seconds
        model(pixels)
    assert list(seconds) == ["forward"]


@pytest.fixture
def searched(
    make_study: Callable[..., Study],
    make_epoch: Callable[..., EpochMetrics],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Study]:
    """Return a study of one slot, whose search took 40 seconds, with a clock of its own.

    One trial: handed out at 2 s, at its first epoch from 5 s to 10 s (4 s of it training), at its
    second, after 1 s, from 11 s to 16 s; ended at 18 s.
    """
    study, now = make_study(), 0.0
    study.note("data", {"train_images": 1000})
    monkeypatch.setattr("time.time", lambda: now)
    session = study.sessions.start("search", host="here", pid=1)
    plan = study.optuna.ask()
    configuration = configuration_of(
        study_config("small", trials=1, epochs=2, images=1000, seed=0, data="synthetic")
    )
    plan.set_user_attr("configuration", configuration.to_dict())
    now = 2.0
    attempt = study.record.start_attempt(0, from_epoch=0)
    study.record.place_attempt(0, attempt, node="node", pid=7)
    for epoch in (1, 2):
        now = 4.0 + 6.0 * epoch
        # Of 1,000 images three batches of 256 are trained on.
        metrics = make_epoch(epoch, 0.5, seconds=5.0, images_per_second=768 / 4)
        study.record.add_epoch(0, attempt, metrics, 0.5)
    now = 18.0
    study.record.end_attempt(0, attempt, outcome="complete", reason="")
    now = 40.0
    study.sessions.end(session)
    yield study


def test_the_record_tells_where_the_time_of_a_slot_went(searched: Study) -> None:
    found = slot_time(searched.folder)
    slot = found["slots"]["node 7"]
    assert slot == {
        "training": pytest.approx(8.0),
        "validation": pytest.approx(2.0),
        "starting": pytest.approx(3.0),
        "between epochs": pytest.approx(3.0),
        "waiting": pytest.approx(24.0),
        "trials": 1,
        "epochs": 2,
    }
    assert found["wall_seconds"] == 40.0 and found["slots_at_once"] == 1
    assert found["share"]["training"] == pytest.approx(0.2)
    assert sum(found["share"].values()) == pytest.approx(1.0)


def test_the_command_tells_it_of_a_study(
    searched: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main(["--study", str(searched.folder), "--json", str(out)]) == 0
    assert "20.0" in capsys.readouterr().out
    assert json.loads(out.read_text())["study"]["share"]["waiting"] == pytest.approx(0.6)


def test_a_folder_without_a_study_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--study", str(tmp_path / "none")]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_the_table_says_what_its_seconds_leave_out(capsys: pytest.CaptureFixture[str]) -> None:
    kind = {"trials": 6, "seconds": 30.0, "trials_per_hour": 720.0, "accuracy_mean": 0.9}
    kind |= {"trials_per_hour_of_rounds": [720.0], "accuracy_sd": 0.01, "start_seconds": {}}
    kind |= {"between_epochs_seconds": None}
    found = {
        "stock": kind | {"with_ray_seconds": 34.5},
        "ours": kind | {"with_ray_seconds": 41.2},
        "accuracy_ours_less_stock": [0.0, -0.01, 0.01],
    }
    names = ("network", "epochs", "images", "rounds", "slots", "processor", "torch", "ray", "load")
    answer = {"through_ray": found, "trials_per_hour_ratio": 1.0}
    answer["conditions"] = dict.fromkeys(names, "")
    print_all(answer, Console(width=110))
    said = " ".join(capsys.readouterr().out.split())
    assert "with Ray's start and, for ours, its checks: 34.5 s and 41.2 s" in said
    assert "ours: bf16 where the hardware has it, screen quiet; stock: fp32" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_both_kinds_of_trial_run_through_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    options = ["--trials", "3", "--epochs", "2", "--images", "1000", "--rounds", "1"]
    assert main([*options, "--data", "synthetic", "--only", "ray", "--json", str(out)]) == 0
    assert "Trials an hour through Ray" in capsys.readouterr().out
    found = json.loads(out.read_text())
    for who in ("stock", "ours"):
        assert found["through_ray"][who]["with_ray_seconds"] > found["through_ray"][who]["seconds"]
        of = found["through_ray"][who]
        assert of["trials"] == len(of["accuracies"]) == 3
        starts = of["start_seconds"].values()
        assert sum(start["count"] for start in starts if start) == 3
        assert of["between_epochs_seconds"]["count"] == 3
    ratio = found["trials_per_hour_ratio"]
    stock, ours = (found["through_ray"][who]["trials_per_hour"] for who in ("stock", "ours"))
    assert ratio == pytest.approx(ours / stock)
