"""Failures of every kind, provoked for real on a real Ray: their type, their retry, their end.

A full disk is in `test_disk_full.py`; a node that dies under a study in the cluster's tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from optuna.trial import TrialState

from model.train import EpochMetrics
from search.config.config import DataSection, StudyConfig
from search.drive.driver import Driver
from search.engine.tuner import run_search
from search.machine.slots import plan_slots
from search.propose.fidelity_sampler import UNTRAINABLE
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.dataset import load_images
from search.record.study import Study, create, open_study

MakeConfig = Callable[..., StudyConfig]
DATA = DataSection(source="synthetic", synthetic_train=6300, validation_images=300)
FINE, BUG, DIVERGED, GREEDY, HUNG, LOST = range(6)
POINTS = [
    {"filters": 4, "learning_rate": 0.02},
    {"filters": 5, "learning_rate": 0.02},
    {"filters": 6, "learning_rate": 1e6},
    {"filters": 4096, "learning_rate": 0.02},  # its first maps of one batch: 38 GB or more
    {"filters": 7, "learning_rate": 0.02},
    {"filters": 8, "learning_rate": 0.02},
]


@dataclass
class Saboteur:
    """An observer that stops one worker and kills another, at their first epochs."""

    study: Study
    done: set[int] = field(default_factory=set)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def started(self, assignment: Assignment, origin: str) -> None:
        """Put a file where a trial would write its checkpoints."""
        if assignment.trial == BUG:
            assignment.folder.rmdir()
            assignment.folder.write_text("not a folder", encoding="utf-8")

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Sabotage a trial once."""
        signals = {HUNG: signal.SIGSTOP, LOST: signal.SIGKILL}
        if trial in signals and trial not in self.done:
            self.done.add(trial)
            rows = [row for row in self.study.record.attempts() if row["trial"] == trial]
            os.kill(rows[-1]["pid"], signals[trial])

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Remember what was told."""
        self.failures.append((trial, failure))

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Do nothing."""

    def stopping(self, reason: str) -> None:
        """Do nothing."""


@dataclass
class Search:
    """What is left after the search."""

    study: Study
    driver: Driver
    failures: list[tuple[int, str]]

    def attempts(self, trial: int) -> list[tuple[Any, ...]]:
        """Return how the attempts of a trial ended: outcome, failure, first epoch."""
        rows = [row for row in self.study.record.attempts() if row["trial"] == trial]
        return [(row["outcome"], row["failure"], row["from_epoch"]) for row in rows]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Iterator[Search]:
    """Search once for all tests of this file."""
    config = make_config(
        max_epochs=3,
        data=DATA.model_dump(),
        space={
            "filters": {"int": [4, 4096], "log": True},
            "learning_rate": {"float": [1e-6, 1e6], "log": True},
            "batch_size": 6000,
            "optimizer": "sgd",
            "schedule": "constant",
        },
        points=POINTS,
        asha={"enabled": False},
        budget={"trials": len(POINTS)},
        resources={"max_concurrent": 2, "hang_seconds": 20.0},
    )
    study = create(config, tmp_path_factory.mktemp("runs") / "small", facts={}, environment={})
    images = load_images(config.data)
    saboteur = Saboteur(study)
    driver = run_search(
        study, images.train, images.validation, plan_slots(config.resources), observers=[saboteur]
    )
    yield Search(study=open_study(study.folder), driver=driver, failures=saboteur.failures)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_one_failing_trial_never_ends_a_study(search: Search) -> None:
    assert search.driver.done and not search.driver.interrupted and not search.driver.halted
    outcomes = [trial.outcome for trial in search.study.trials()]
    assert outcomes == ["complete", "failed", "infeasible", "infeasible", "complete", "complete"]


def test_a_bug_fails_its_trial_at_once_with_its_traceback(search: Search) -> None:
    trial = search.study.trial(BUG)
    assert (trial.failure, search.attempts(BUG)) == ("bug", [("failed", "bug", 0)])
    (attempt,) = [row for row in search.study.record.attempts() if row["trial"] == BUG]
    assert attempt["reason"].startswith("Traceback") and "step" in attempt["reason"]
    assert trial.reason == attempt["reason"].strip().splitlines()[-1]


def test_a_diverged_trial_is_infeasible_and_told_to_the_sampler(search: Search) -> None:
    trial, frozen = search.study.trial(DIVERGED), search.study.optuna.get_trials()[DIVERGED]
    assert trial.failure == "diverged" and "the loss is not finite" in trial.reason
    assert (frozen.state, frozen.user_attrs[UNTRAINABLE]) == (TrialState.FAIL, True)


def test_a_trial_that_needs_too_much_memory_is_tried_again_alone(search: Search) -> None:
    trial, frozen = search.study.trial(GREEDY), search.study.optuna.get_trials()[GREEDY]
    memory = "out of memory"
    assert search.attempts(GREEDY) == [("lost", memory, 0), ("infeasible", memory, 0)]
    assert trial.failure == memory and "also with no other trial beside it" in trial.reason
    assert frozen.user_attrs[UNTRAINABLE] is True
    rows = search.study.record.attempts()
    alone = next(row for row in rows if (row["trial"], row["attempt"]) == (GREEDY, 2))
    for row in rows:
        is_same = row["trial"] == GREEDY
        apart = row["ended_at"] <= alone["started_at"] or row["started_at"] >= alone["ended_at"]
        assert is_same or apart


def test_a_worker_that_hangs_is_ended_and_its_trial_goes_on(search: Search) -> None:
    first, second = search.attempts(HUNG)
    assert first == ("lost", "hung", 0)
    assert second[0] == "complete" and second[2] >= 1
    assert (HUNG, "hung") in search.failures
    assert UNTRAINABLE not in search.study.optuna.get_trials()[HUNG].user_attrs


def test_a_worker_that_is_killed_costs_its_trial_nothing(search: Search) -> None:
    first, second = search.attempts(LOST)
    assert first == ("lost", "worker lost", 0)
    assert second[0] == "complete" and second[2] >= 1
    assert [row.epoch for row in search.study.trial(LOST).epochs] == [1, 2, 3]
