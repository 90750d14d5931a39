"""What a study file leaves open is settled to numbers before the study is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config.config import StudyConfig
from search.config.config_file import load_config
from search.prune.asha import AshaRules
from search.prune.settle import asha_rules, expected_trials, rungs_of, settle
from search.record.study import create, open_study

SPACE = {"filters": {"choice": [4, 8]}, "learning_rate": 0.1}


def _config(**sections: Any) -> StudyConfig:
    values: dict[str, Any] = {"space": SPACE, "budget": {"trials": 40}}
    return StudyConfig.model_validate(values | sections)


def _settled(slots: int = 2, **sections: Any) -> StudyConfig:
    return settle(_config(**sections), slots=slots)


@pytest.mark.parametrize(
    ("max_epochs", "budget", "expected"),
    [
        # One epoch of grace for 25 of the longest training.
        (100, {"trials": 64}, 4),
        (25, {"trials": 64}, 1),
        (9, {"trials": 16}, 1),
        (1, {"trials": 40}, 1),  # never below one epoch
        # 64 trials fill the rungs of 4, 16 and 64 epochs; fewer fill the later two, or one.
        (100, {"trials": 63}, 16),
        (100, {"trials": 16}, 16),
        (100, {"trials": 15}, 64),
        (100, {"trials": 1}, 64),
        (9, {"trials": 15}, 4),
        # 1,024 epochs are enough for about 64 trials: each rung costs as much as the first.
        (100, {"epochs": 1024}, 4),
        (100, {"epochs": 1023}, 16),
        # Only time limits it.
        (100, {"seconds": 600.0}, 4),
        (100, {"device_hours": 1.0}, 4),
    ],
)
def test_the_first_rung_is_set_by_the_epochs_and_what_the_budget_can_fill(
    max_epochs: int, budget: dict[str, Any], expected: int
) -> None:
    config = _settled(max_epochs=max_epochs, budget=budget)
    assert config.asha.grace_epochs == expected
    assert config.asha.reduction_factor == 4


@pytest.mark.parametrize(
    ("eta", "trials", "epochs", "grace"),
    [
        (2, 32, 25, 1),  # rungs 1, 2, 4, 8, 16
        (2, 31, 25, 2),
        (10, 1000, 1000, 40),  # rungs 40, 400
        (10, 99, 1000, 400),
        (3, 27, 27, 1),
    ],
)
def test_the_last_rung_is_one_that_the_trials_fill(
    eta: int, trials: int, epochs: int, grace: int
) -> None:
    config = _settled(max_epochs=epochs, budget={"trials": trials}, asha={"reduction_factor": eta})
    assert config.asha.grace_epochs == grace
    assert trials >= eta ** len(rungs_of(config)) or len(rungs_of(config)) == 1


def test_the_number_of_trials_is_taken_from_the_budget() -> None:
    assert expected_trials(_config(budget={"trials": 7, "epochs": 900})) == 7.0
    assert expected_trials(_config(budget={"seconds": 60.0})) is None
    # Rungs 1 and 4, then the end: three epochs a trial.
    assert expected_trials(_config(budget={"epochs": 90}, max_epochs=9)) == 30.0
    # One epoch is all there is to a trial; of two, the first is a rung.
    assert expected_trials(_config(budget={"epochs": 90}, max_epochs=1)) == 90.0
    assert expected_trials(_config(budget={"epochs": 90}, max_epochs=2)) == 45.0


@pytest.mark.parametrize(("slots", "expected"), [(1, 8), (4, 8), (5, 10), (16, 32)])
def test_every_slot_starts_at_least_twice_before_the_model_is_used(
    slots: int, expected: int
) -> None:
    assert _settled(slots=slots).sampler.startup_trials == expected


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"budget": {"trials": 200}}, 0.033),
        ({"budget": {"trials": 199}}, 0.0),
        ({"budget": {"epochs": 600}}, 0.033),
        ({"budget": {"epochs": 599}}, 0.0),
        ({"budget": {"seconds": 600.0}}, 0.0),
        ({"budget": {"trials": 200}, "asha": {"enabled": False}}, 0.0),
        ({"budget": {"trials": 200}, "asha": {"form": "stopping"}}, 0.033),
        ({"budget": {"trials": 200}, "asha": {"grace_epochs": 4}}, 0.05),
        ({"budget": {"trials": 200}, "asha": {"grow": True}}, 0.0),
        ({"budget": {"trials": 200}, "asha": {"grace_epochs": 9}}, 0.0),
        ({"budget": {"trials": 200}, "asha": {"audit_share": 0.0}}, 0.0),
        ({"budget": {"trials": 9}, "asha": {"audit_share": 0.5}}, 0.5),
    ],
)
def test_some_stopped_trials_of_a_long_study_are_audited(
    sections: dict[str, Any], expected: float
) -> None:
    assert _settled(**sections).asha.audit_share == expected


def test_what_is_given_is_kept() -> None:
    config = _config(
        max_epochs=81,
        asha={"grace_epochs": 5, "reduction_factor": 4, "audit_share": 0.2, "brackets": 2},
        sampler={"kind": "tpe", "startup_trials": 3},
    )
    assert settle(config, slots=16) == config
    # And what is settled stays so, on a machine with more slots too.
    settled = _settled()
    assert settle(settled, slots=64) == settled


def test_the_saved_configuration_holds_numbers_only(tmp_path: Path) -> None:
    config = _settled(slots=3)
    folder = create(config, tmp_path / "s", facts={}, environment={}).folder
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["asha"]["grace_epochs"] == 1
    assert saved["asha"]["reduction_factor"] == 4
    assert saved["asha"]["audit_share"] == 0.0
    assert saved["sampler"]["startup_trials"] == 8
    assert "auto" not in [*saved["asha"].values(), *saved["sampler"].values()]
    assert open_study(folder).config == config
    assert load_config(folder / "config.yaml") == config


def test_asha_s_rules_are_those_of_the_study() -> None:
    config = _settled(
        seed=7,
        max_epochs=27,
        asha={"grow": True, "brackets": 2, "min_competitors": 5, "reduction_factor": 3},
    )
    assert asha_rules(config) == AshaRules(
        grace_epochs=1,
        reduction_factor=3,
        max_epochs=27,
        min_competitors=5,
        form="promotion",
        brackets=2,
        grow=True,
        audit_share=0.0,
        seed=7,
    )
    assert rungs_of(config) == [1, 3, 9]


def test_asha_switched_off_has_no_rungs() -> None:
    config = _settled(max_epochs=27, asha={"enabled": False})
    assert rungs_of(config) == []
    assert asha_rules(config).max_epochs == 0


def test_what_is_not_settled_has_no_rules(make_config: Callable[..., StudyConfig]) -> None:
    with pytest.raises(AssertionError):
        asha_rules(_config())
    assert asha_rules(make_config()).grace_epochs == 1
