"""How a machine is divided among trials."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from search.config.sections import ResourcesSection
from search.machine.slots import plan_slots


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "expected"),
    [
        (4, 0, {}, (4, 1, 0.0)),
        (8, 0, {"cpus_per_trial": 3}, (2, 3, 0.0)),
        (8, 0, {"max_concurrent": 3}, (3, 1, 0.0)),
        (2, 0, {"max_concurrent": 8}, (2, 1, 0.0)),
        (16, 2, {}, (2, 1, 1.0)),  # auto: a whole GPU, unless it was measured
        (16, 1, {"gpus_per_trial": 0.1}, (10, 1, 0.1)),
        (16, 2, {"gpus_per_trial": 0.4}, (4, 1, 0.4)),  # a share does not lie on two GPUs
        (16, 8, {"gpus_per_trial": 2}, (4, 1, 2.0)),
        (16, 1, {"gpus_per_trial": 0}, (16, 1, 0.0)),
    ],
)
def test_slots_divide_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    gpus: int,
    resources: dict[str, Any],
    expected: tuple[int, int, float],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    slots = plan_slots(ResourcesSection(**resources))
    assert (slots.count, slots.threads, slots.gpus) == expected


def test_a_trial_that_asks_for_more_than_the_machine_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="cpus_per_trial` is 3, but this machine has 2 CPUs"):
        plan_slots(ResourcesSection(cpus_per_trial=3))
    with pytest.raises(
        ValueError, match=r"gpus_per_trial` is 0\.5, but this machine has 0 GPUs; set"
    ):
        plan_slots(ResourcesSection(gpus_per_trial=0.5))
