"""Training learns, repeats bit for bit, and goes on from a checkpoint as if never stopped."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.images import ImageShape
from model.checkpoint import load_checkpoint, load_model, save_checkpoint, save_model
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.muon import orthogonalised
from model.precision import resolve_precision
from model.schedule import build_optimizer, learning_rate
from model.train import EpochMetrics, Training, fit

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(channels=1, height=12, width=12, num_classes=3)


def images(num_images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw noise with a bright band whose height tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (num_images,), generator=generator)
    pixels = torch.randint(0, 150, (num_images, 1, 12, 12), generator=generator)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 60
    return pixels.to(torch.uint8), labels


def configuration(network: dict[str, Any] | None = None, **training: Any) -> Configuration:
    return Configuration(
        network=NetworkConfig(
            **({"filters": (4, 8), "dropout": 0.2, "block_dropouts": (0.1,)} | (network or {}))
        ),
        training=TrainingConfig(
            **({"epochs": 4, "learning_rate": 0.05, "batch_size": 32} | training)
        ),
    )


def start(config: Configuration, seed: int = 3) -> Training:
    return Training.start(config, SHAPE, [90.0], [50.0], seed, "cpu")


def numbers(metrics: list[EpochMetrics]) -> list[tuple[float | None, ...]]:
    """Return all that does not depend on the clock."""
    return [
        (m.train_loss, m.train_accuracy, m.val_loss, m.val_accuracy, m.learning_rate)
        for m in metrics
    ]


def weights(training: Training) -> list[Tensor]:
    return list(training.model.state_dict().values())


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


RECIPES: list[dict[str, Any]] = [
    {"precision": "fp32", "weight_decay": 5e-4},
    {"precision": "bf16", "flip": True, "shift": 1, "erase": 0.3, "label_smoothing": 0.1},
    {"optimizer": "adamw", "learning_rate": 0.02, "schedule": "cosine", "weight_decay": 0.01},
    {"momentum": 0.0, "schedule": "constant"},
    {"optimizer": "muon", "learning_rate": 0.2, "momentum": 0.6, "weight_decay": 0.01},
    {"optimizer": "muon", "learning_rate": 0.1, "momentum": 0.0, "schedule": "cosine"},
    {"ema": 0.9, "flip": True, "alternate": True},
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_learns_to_tell_the_bands(recipe: dict[str, Any]) -> None:
    plain = {"flip": False, "alternate": False, "shift": 0, "erase": 0.0}
    training = start(configuration(**recipe | plain))
    metrics = list(fit(training, images(480), images(120, seed=1)))
    assert [m.epoch for m in metrics] == [1, 2, 3, 4]
    assert training.epoch == 4
    final = metrics[-1]
    assert final.val_accuracy is not None and final.val_accuracy > 0.8
    assert final.train_loss < metrics[0].train_loss
    assert final.images_per_second > 0 and final.seconds > 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stop", [1, 3])
def test_going_on_from_a_checkpoint_equals_never_stopping(
    recipe: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    config = configuration(**recipe)
    train, validation = images(100), images(40, seed=1)
    whole = start(config)
    expected = list(fit(whole, train, validation))

    first = start(config)
    metrics = list(fit(first, train, validation, until=stop))
    assert first.epoch == stop
    save_checkpoint(first, tmp_path / "c.safetensors", {})
    torch.manual_seed(99)  # what others draw in between must not show
    torch.rand(7)
    resumed, _ = load_checkpoint(tmp_path / "c.safetensors", "cpu")
    metrics += fit(resumed, train, validation)

    assert numbers(metrics) == numbers(expected)
    assert same(weights(resumed), weights(whole))
    assert same(
        list(resumed.network.state_dict().values()), list(whole.network.state_dict().values())
    )


def test_the_same_seed_repeats_and_another_does_not() -> None:
    config = configuration(epochs=2)
    runs = []
    for seed in (3, 3, 4):
        torch.rand(5)
        runs.append(numbers(list(fit(start(config, seed), images(100), images(40)))))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(fit(start(configuration(epochs=1)), images(64), None))
    assert torch.equal(torch.rand(3), expected)


def test_a_diverged_training_shows_its_losses_and_goes_on() -> None:
    training = start(configuration())
    nn.init.constant_(training.model.classifier.weight, float("inf"))
    metrics = list(fit(training, images(64), images(32)))
    assert len(metrics) == 4
    assert not math.isfinite(metrics[-1].train_loss)
    assert metrics[-1].val_loss is not None and not math.isfinite(metrics[-1].val_loss)


def test_validation_is_optional_and_fewer_images_than_a_batch_are_trained_on() -> None:
    metrics = list(fit(start(configuration(epochs=1)), images(20), None))
    assert metrics[0].val_loss is None and metrics[0].val_accuracy is None
    assert metrics[0].train_loss > 0


def test_the_validation_loss_is_the_mean_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    # 40 images in batches of 16 leave a smaller one: a mean of means would be wrong.
    monkeypatch.setattr("model.train.VALIDATION_BATCH", 16)
    training = start(configuration(epochs=1, precision="fp32"))
    pixels, labels = images(40, seed=1)
    (metrics,) = fit(training, images(64), (pixels, labels))
    logits = training.model.eval()(pixels).detach()
    assert metrics.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    assert metrics.val_accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_label_smoothing_is_trained_with_but_not_validated_with() -> None:
    plain, smoothed = (
        next(iter(fit(start(configuration(label_smoothing=s)), images(64), images(32), until=1)))
        for s in (0.0, 0.9)
    )
    assert smoothed.train_loss != plain.train_loss
    training = start(configuration(label_smoothing=0.9, precision="fp32"))
    (metrics,) = fit(training, images(64), images(32), until=1)
    pixels, labels = images(32)
    logits = training.model.eval()(pixels).detach()
    assert metrics.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))


def test_until_past_the_schedule_and_too_few_images_are_refused_at_once() -> None:
    training = start(configuration())
    with pytest.raises(ValueError, match="until is 5, but the schedule has 4 epochs"):
        fit(training, images(64), None, until=5)
    with pytest.raises(ValueError, match=r"1 training images given, .* at least 2"):
        fit(training, images(1), None)


def test_fit_stops_where_it_is_told_and_does_nothing_when_already_there() -> None:
    training = start(configuration())
    assert len(list(fit(training, images(64), None, until=2))) == 2
    assert list(fit(training, images(64), None, until=2)) == []
    assert len(list(fit(training, images(64), None))) == 2


def test_one_cycle_climbs_a_quarter_and_falls_to_almost_nothing() -> None:
    rates = [learning_rate("one-cycle", 0.4, step, 100) for step in range(100)]
    assert max(rates) == rates[24] == 0.4
    assert rates[:25] == sorted(rates[:25]) and rates[24:] == sorted(rates[24:], reverse=True)
    assert rates[0] == pytest.approx(0.4 / 25)
    assert rates[-1] == pytest.approx(0.4 / 76)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_the_shortest_schedules_keep_a_rate_between_nothing_and_the_highest(
    schedule: Any, num_steps: int
) -> None:
    for step in range(num_steps):
        assert 0 < learning_rate(schedule, 0.1, step, num_steps) <= 0.1


def test_cosine_falls_through_the_middle_and_constant_stays() -> None:
    assert learning_rate("cosine", 0.2, 0, 10) == 0.2
    assert learning_rate("cosine", 0.2, 5, 10) == pytest.approx(0.1)
    assert learning_rate("constant", 0.2, 9, 10) == 0.2


def test_the_average_of_the_weights_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    train, validation = images(64), images(40, seed=1)
    config = configuration(epochs=12, ema=0.8)
    training = start(config)
    expected = [p.detach().clone() for p in training.model.parameters()]
    steps: list[float] = []
    step = training.optimizer.step

    def step_and_average(*arguments: Any) -> None:
        step(*arguments)
        now = [p.detach().clone() for p in training.model.parameters()]
        # At first the average forgets faster: 2/11, 3/12, ... until that is the decay.
        decay = min(0.8, (2 + len(steps)) / (11 + len(steps)))
        steps.append(decay)
        expected[:] = [decay * e + (1 - decay) * n for e, n in zip(expected, now, strict=True)]

    training.optimizer.step = step_and_average  # type: ignore[method-assign]
    metrics = list(fit(training, train, validation))
    assert steps[0] == 2 / 11 and steps[-1] > 0.7
    for average, wanted in zip(training.network.parameters(), expected, strict=True):
        torch.testing.assert_close(average, wanted)
    assert not same(list(training.network.parameters()), list(training.model.parameters()))
    save_model(training, tmp_path / "m", classes=("a", "b", "c"), metrics={})
    loaded = load_model(tmp_path / "m", "cpu").model
    assert same(list(loaded.parameters()), list(training.network.parameters()))
    with torch.inference_mode():
        right = loaded(validation[0]).argmax(dim=1) == validation[1]
    assert metrics[-1].val_accuracy == pytest.approx(float(right.float().mean()), abs=0.03)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_muon_makes_a_step_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    assert torch.linalg.svdvals(found)[:-1].min() > 0.5 and torch.linalg.svdvals(found).max() < 1.3
    nearest = left @ right
    assert torch.nn.functional.cosine_similarity(found.flatten(), nearest.flatten(), dim=0) > 0.95


def test_muon_steps_the_filters_and_leaves_the_classifier_and_the_rest_to_sgd() -> None:
    by_kind: dict[str, nn.Module] = {}
    for kind in ("muon", "sgd"):
        recipe = configuration(None, optimizer=kind, learning_rate=0.1, momentum=0.0).training
        torch.manual_seed(0)
        model = start(configuration()).model
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        build_optimizer(model, recipe, torch.device("cpu")).step()
        by_kind[kind] = model
    muon, sgd = (dict(by_kind[kind].named_parameters()) for kind in ("muon", "sgd"))
    apart = {name for name in muon if not torch.equal(muon[name], sgd[name])}
    assert apart == {"blocks.0.conv1.weight", "blocks.1.conv1.weight"}


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    config = configuration({"dense_width": 6}, weight_decay=0.1)
    model = start(config).model
    optimizer = build_optimizer(model, config.training, torch.device("cpu"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = (
        {names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed == {
        "blocks.0.conv1.weight",
        "blocks.1.conv1.weight",
        "hidden.weight",
        "classifier.weight",
    }
    assert decayed | spared == set(names.values())


def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("model.precision._cpu_has_bf16", lambda has=has_bf16: has)
        assert resolve_precision("auto", "cpu") == expected
        assert resolve_precision("fp32", "cpu") == "fp32"
        assert resolve_precision("bf16", "cpu") == "bf16"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _, c=capability: c)
        assert resolve_precision("auto", "cuda:0") == expected
    assert resolve_precision("auto", "meta") == "fp32"
