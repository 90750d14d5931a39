"""What a study needs of the disk: foreseen from its networks, checked before it is searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from data.images import ImageShape
from model.checkpoint import save_checkpoint
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import Training, fit
from search.config.config import StudyConfig
from search.machine.needs import check_disk, checkpoint_bytes, disk_need, low_disk
from search.record.study import create

MakeConfig = Callable[..., StudyConfig]
FACTS = {"data": {"channels": 1, "height": 28, "width": 28, "classes": list("0123456789")}}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("recipe", "network"),
    [
        ({"optimizer": "sgd", "momentum": 0.9}, {"filters": (16, 32, 64), "batch_norm": True}),
        ({"optimizer": "sgd", "momentum": 0.0}, {"filters": (32,), "dense_width": 64}),
        ({"optimizer": "adamw"}, {"filters": (8, 16), "convs_per_block": 2}),
        ({"optimizer": "muon", "ema": 0.99}, {"filters": (16, 32), "squeeze": True}),
    ],
)
def test_the_size_of_a_checkpoint_is_foreseen(
    recipe: dict[str, Any], network: dict[str, Any], shape: ImageShape, tmp_path: Path
) -> None:
    configuration = Configuration(
        network=NetworkConfig(**network),
        training=TrainingConfig(epochs=9, learning_rate=0.01, batch_size=16, **recipe),
    )
    device = torch.device("cpu")
    training = Training.start(configuration, shape, [90.0], [50.0], 0, device)
    images = torch.zeros(16, 1, 28, 28, dtype=torch.uint8), torch.arange(16) % 10
    epochs = [asdict(metrics) for metrics in fit(training, images, images)]
    path = tmp_path / "e0009.safetensors"
    save_checkpoint(training, path, {"epochs": epochs})
    assert path.stat().st_size == pytest.approx(checkpoint_bytes(configuration, shape), rel=0.05)


def test_disk_grows_with_the_trials_that_wait_until_the_quota(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    def checkpoints(trials: float, **changes: Any) -> int:
        config = make_config(**changes)
        need = disk_need(
            config, tmp_path / "runs", trials=trials, slots=2, checkpoint=5e6, model=1e6
        )
        return need.parts["checkpoints"]

    live, waiting = 2 * 4 * 5_000_000, 2 * 5_000_000
    assert checkpoints(10) == live + 10 * waiting
    assert checkpoints(100_000) == 5_000_000_000
    assert checkpoints(100_000, checkpoints={"max_gb": None}) == live + 100_000 * waiting
    # What runs, and the best, is kept whatever the quota.
    assert checkpoints(100_000, checkpoints={"max_gb": 1e-6}) == live + 5_000_000
    stopping = {"form": "stopping"}
    assert checkpoints(100_000, asha=stopping) == live + 3 * 5_000_000
    few = {"keep_best": 0}
    assert checkpoints(100_000, asha=stopping, checkpoints=few) == live


def test_checkpoints_in_a_store_need_no_disk(
    make_config: MakeConfig, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    far = {"url": "s3://bucket/prefix"}
    need = disk_need(
        make_config(checkpoints=far), tmp_path, trials=10, slots=2, checkpoint=5e6, model=1e6
    )
    assert "checkpoints" not in need.parts
    assert need.total > 0
    space = {"num_blocks": 1, "filters": {"choice": [64, 96]}, "dense_width": 512}
    final = {"seeds": 1, "baseline_seeds": 0, "export": False}
    config = make_config(space=space | {"learning_rate": 0.1}, final=final, checkpoints=far)
    place = small_disk(60_000_000) / "small"
    check_disk(create(config, place, facts=FACTS, environment={}), 4)


@pytest.mark.parametrize("section", [{"max_gb": 0.0}, {"max_gb": -1.0}, {"keep_best": -1}])
def test_a_quota_of_nothing_is_refused(make_config: MakeConfig, section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(section))):
        make_config(checkpoints=section)


def test_what_follows_the_search_is_counted_where_the_studies_lie(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(baselines=["seed-32"], final={"seeds": 2, "baseline_seeds": 1})
    runs = tmp_path / "not" / "there" / "yet"
    need = disk_need(config, runs, trials=1e9, slots=1, checkpoint=5e6, model=1e6)
    assert need.parts["final models"] == 3 * (1_000_000 + (1 << 20))
    assert need.available > 0
    assert not need.suffices  # a thousand million trials have records, too


def test_a_search_is_refused_where_the_disk_cannot_hold_its_checkpoints(
    make_config: MakeConfig, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    space = {"num_blocks": 1, "filters": {"choice": [64, 96]}, "dense_width": 512}
    config = make_config(space=space | {"learning_rate": 0.1})
    large = create(config, tmp_path / "large", facts=FACTS, environment={})
    check_disk(large, 2)
    assert low_disk(tmp_path) == ""
    disk = small_disk(60_000_000)
    small = create(config, disk / "small", facts=FACTS, environment={})
    with pytest.raises(ValueError) as refused:
        check_disk(small, 2)
    text = str(refused.value)
    assert text.startswith("disk: small needs at least ")
    assert f"are free at {disk / 'small'}; free some (`gc`" in text
    assert "\n" not in text
    assert "only 59." in low_disk(disk / "none" / "yet")


def test_a_search_that_fits_is_not_refused_for_the_trials_that_may_wait(
    make_config: MakeConfig, small_disk: Callable[[int], Path]
) -> None:
    config = make_config(
        budget={"trials": 10**6}, final={"seeds": 1, "baseline_seeds": 0, "export": False}
    )
    place = small_disk(30_000_000) / "small"
    check_disk(create(config, place, facts=FACTS, environment={}), 2)
