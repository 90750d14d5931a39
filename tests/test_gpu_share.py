"""What a trial needs of a GPU: the arithmetic, which configurations are measured, and measuring."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from data.images import ImageShape
from data.source import DataSpec, load_train
from model.geometry import network_cost
from search.config.baselines import BASELINES
from search.config.config import StudyConfig
from search.config.draws import draw_configurations
from search.config.sections import ResourcesSection
from search.machine.gpu_need import costliest, measure, measure_apart, training_bytes
from search.machine.gpu_share import GpuNeed, gpu_share, share_here
from search.machine.slots import plan_slots

GB = 10**9
NEED = GpuNeed(
    training=1_400_000_000,
    context=500_000_000,
    images=100_000_000,
    configuration={"network": {"filters": [64, 128]}, "training": {"batch_size": 512}},
    parameters=1_234_567,
    device="GPU",
)


@pytest.mark.parametrize(
    ("need", "memory", "trials", "share"),
    [
        (2 * GB, 24 * GB, 16, 0.1),  # 2.4 GB with the margin
        (2 * GB, 24 * GB, 4, 0.25),  # no more trials than CPU threads
        (2 * GB, 24 * GB, 1, 1.0),
        (3 * GB, 24 * GB, 16, 0.1666),  # six, and not more than one GPU together
        (11 * GB, 24 * GB, 16, 1.0),  # two would need 26.4
        (30 * GB, 24 * GB, 16, 1.0),  # more than there is: alone, and it may still fail
        (1, 24 * GB, 64, 0.0156),
    ],
)
def test_a_share_is_the_measured_need_with_a_margin(
    need: int, memory: int, trials: int, share: float
) -> None:
    assert gpu_share(need, memory=memory, trials=trials) == share


@pytest.mark.parametrize("trials", range(1, 101))
def test_as_many_trials_fit_as_the_share_is_made_for(trials: int) -> None:
    share = gpu_share(1, memory=24 * GB, trials=trials)
    assert int(1 / share) == trials
    assert round(trials * share * 10_000) <= 10_000  # as Ray counts


@pytest.mark.parametrize(
    ("cpus", "threads", "gpus", "count", "share"),
    [(16, 1, 1, 10, 0.1), (4, 1, 1, 4, 0.25), (16, 4, 1, 4, 0.25), (9, 1, 2, 9, 0.2)],
)
def test_slots_are_divided_by_the_measured_need(
    monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int, gpus: int, count: int, share: float
) -> None:
    class Properties:
        total_memory = 24 * GB

    monkeypatch.setattr("search.machine.slots.available_cpus", lambda: cpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    measured = share_here(NEED, threads=threads, cpus=cpus)
    assert measured == share
    slots = plan_slots(ResourcesSection(cpus_per_trial=threads), measured=measured)
    assert (slots.count, slots.gpus) == (count, share)
    fixed = ResourcesSection(cpus_per_trial=threads, gpus_per_trial=0.5)
    assert plan_slots(fixed, measured=measured).gpus == 0.5  # what was asked for holds


def test_no_gpu_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert share_here(NEED, threads=1, cpus=4) is None
    assert plan_slots(ResourcesSection(), measured=None).gpus == 0


def test_the_need_is_kept_and_said(shape: ImageShape) -> None:
    assert NEED.total == 2 * GB
    assert GpuNeed.from_dict(json.loads(json.dumps(NEED.to_dict()))) == NEED
    assert str(NEED) == (
        "a trial takes up to 2.0 GB of GPU memory (training 1.4 GB, CUDA 500.0 MB, images 100.0"
        " MB): measured on GPU with filters 64-128, batches of 512, 1,234,567 parameters"
    )


SPACE: dict[str, Any] = {
    "num_blocks": {"int": [1, 3]},
    "filters": {"int": [4, 128], "log": True, "per_block": True},
    "kernel_size": {"choice": [3, 5]},
    "head": {"choice": ["flatten", "average"]},
    "batch_size": {"choice": [64, 512]},
    "learning_rate": {"float": [0.001, 0.5], "log": True},
}


def test_the_costliest_corner_of_the_space_is_found(
    make_config: Callable[..., StudyConfig], shape: ImageShape
) -> None:
    config = make_config(space=SPACE)
    first, *others = costliest(config, shape)
    assert first.network.filters == (128, 128, 128)
    assert first.training.batch_size == 512
    most = training_bytes(first, shape)
    assert all(training_bytes(other, shape) <= most for other in others)
    drawn = draw_configurations(config, shape, count=500).drawn
    assert all(training_bytes(one, shape) <= most for one in drawn)


def test_what_the_limits_refuse_is_not_measured(
    make_config: Callable[..., StudyConfig], shape: ImageShape
) -> None:
    config = make_config(space=SPACE, limits={"parameters": 30_000})
    found = costliest(config, shape)
    assert found
    for one in found:
        assert network_cost(one.network, shape).parameters <= 30_000
    drawn = draw_configurations(config, shape, count=200).drawn
    assert training_bytes(found[0], shape) >= max(training_bytes(one, shape) for one in drawn)


def test_a_wide_baseline_is_measured_too(
    make_config: Callable[..., StudyConfig], shape: ImageShape
) -> None:
    small = {**SPACE, "num_blocks": 1, "filters": 4, "batch_size": 16}
    config = make_config(space=small, baselines=list(BASELINES))
    assert costliest(config, shape)[0] in config.baseline_configurations().values()


IMAGES = load_train(DataSpec(source="synthetic", synthetic_train=300))


def test_measuring_trains_and_on_a_cpu_takes_nothing_of_a_gpu(
    make_config: Callable[..., StudyConfig],
) -> None:
    config = make_config(baselines=[])
    chosen = costliest(config, IMAGES.shape)
    here = measure(chosen, IMAGES, "cpu")
    assert (here.training, here.context, here.device) == (0, 0, "the CPU")
    assert here.images == IMAGES.images.nbytes + 8 * 300
    assert here.configuration == chosen[0].to_dict()
    assert measure_apart(chosen, IMAGES, "cpu") == here


def test_what_cannot_be_measured_is_said_in_one_line(
    make_config: Callable[..., StudyConfig],
) -> None:
    (chosen, *_) = costliest(make_config(baselines=[]), IMAGES.shape)
    broken = replace(
        chosen,
        network=replace(
            chosen.network, filters=(4,) * 8, kernel_sizes=(3,) * 8, block_dropouts=(0.0,) * 8
        ),
    )
    with pytest.raises(ValueError, match=r"could not be measured \(ValueError: .*\); give res"):
        measure_apart([broken], IMAGES, "cpu")


def test_a_measuring_process_that_dies_is_not_waited_for(
    make_config: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.machine.gpu_need._answer", os._exit)  # takes no such arguments
    with pytest.raises(ValueError, match=r"could not be measured \(its process ended with "):
        measure_apart(costliest(make_config(baselines=[]), IMAGES.shape), IMAGES, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_s_memory_is_measured(make_config: Callable[..., StudyConfig]) -> None:
    config = make_config(space=SPACE)
    need = measure_apart(costliest(config, IMAGES.shape), IMAGES)
    assert need.training > 100 << 20
    assert 300 << 20 <= need.context <= 1 << 30
    small = make_config(space={**SPACE, "filters": 4, "num_blocks": 1, "batch_size": 64})
    assert measure_apart(costliest(small, IMAGES.shape), IMAGES).training < need.training
