"""One worker process a slot, also where a trial is shorter than a worker takes to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from search.config.config import DataSection, StudyConfig
from search.engine.tuner import run_search
from search.engine.workers import Seats, bundle
from search.machine.slots import plan_slots
from search.record.dataset import load_images
from search.record.study import create

DATA = DataSection(source="synthetic", synthetic_train=1000, validation_images=200)


def test_a_slot_whose_worker_waits_is_taken_before_one_that_has_none() -> None:
    seats = Seats()
    assert [seats.take(name) for name in "abc"] == [0, 1, 2]
    seats.leave("a", with_worker=False)
    seats.leave("c", with_worker=True)
    assert len(seats) == 1
    assert [seats.take(name) for name in "def"] == [2, 0, 3]
    seats.leave("nobody", with_worker=True)
    assert seats.take("g") == 4


def test_tune_tells_the_workers_of_two_slots_apart_by_what_they_are_given() -> None:
    assert bundle(2, 0.5, 0) == {"CPU": 2.0, "GPU": 0.5, "memory": 1.0}
    assert bundle(2, 0.5, 1) != bundle(2, 0.5, 0)
    assert "GPU" not in bundle(1, 0.0, 0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_slot_gets_its_worker_and_keeps_it(
    make_config: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    config = make_config(
        max_epochs=1,
        data=DATA.model_dump(),
        space={"num_blocks": 1, "filters": 4, "learning_rate": {"float": [0.01, 0.1]}},
        asha={"enabled": False},
        sampler={"kind": "random"},
        # A trial takes a moment, a worker several seconds: before the second one has come, the
        # first could train twenty of them.
        budget={"trials": 200},
        resources={"max_concurrent": 2},
    )
    study = create(config, tmp_path / "small", facts={}, environment={})
    images = load_images(config.data)
    run_search(study, images.train, images.validation, plan_slots(config.resources))
    attempts = study.record.attempts()
    assert len(attempts) == 200 and {row["outcome"] for row in attempts} == {"complete"}
    trained = Counter(row["pid"] for row in attempts)
    assert len(trained) == 2, trained
