"""What a driver writes in one step is one transaction, and is acted on after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from data.images import ImageShape
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.storage import engine_of
from search.record.study import Study, open_study

MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
PROMOTION = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1}


class _Counted:
    """Counts what a study's database is sent."""

    def __init__(self, study: Study) -> None:
        self.statements = self.commits = 0
        engine = engine_of(study.optuna)
        sa.event.listen(engine, "before_cursor_execute", self._statement)
        sa.event.listen(engine, "commit", self._commit)

    def _statement(self, *_: Any) -> None:
        self.statements += 1

    def _commit(self, *_: Any) -> None:
        self.commits += 1

    def take(self) -> tuple[int, int]:
        """Return commits and statements since the last call."""
        taken = self.commits, self.statements
        self.commits = self.statements = 0
        return taken


def test_a_step_is_one_transaction_and_takes_as_many_statements_in_a_long_study(
    make_study: MakeStudy, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    study = make_study(
        max_epochs=2,
        budget={"trials": 300},
        sampler={"kind": "random"},
        asha={"enabled": False},
    )
    driver = Driver(study, shape=shape, slots=1)
    counted, seen = _Counted(study), []
    for trial in range(60):
        counted.take()
        assignment = driver.next()
        assert assignment is not None and assignment.trial == trial
        costs = [counted.take()]
        with driver.step():
            driver.place(trial, node="host", pid=1)
            driver.on_epoch(trial, make_epoch(1, 0.5))
        costs.append(counted.take())
        driver.on_epoch(trial, make_epoch(2, 0.5))
        costs.append(counted.take())
        seen.append(costs)
    assert {commits for costs in seen for commits, _ in costs} == {1}
    # The very first also reads which trials and attempts there are.
    assert seen[10] == seen[30] == seen[59]
    assert sum(statements for _, statements in seen[59]) < 30


def test_where_nothing_happens_nothing_is_sent(make_study: MakeStudy, shape: ImageShape) -> None:
    study = make_study()
    driver = Driver(study, shape=shape, slots=1)
    driver.next()
    counted = _Counted(study)
    assert driver.next() is None
    assert counted.take() == (0, 0)


class _Reader:
    """An observer that looks into the record as another process would."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self.seen: list[tuple[str, str]] = []

    def _last(self) -> str:
        return str(open_study(self._study.folder).record.events()[-1].kind)

    def started(self, assignment: Assignment, origin: str) -> None:
        self.seen.append(("started", self._last()))

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        self.seen.append(("epoch", self._last()))

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        self.seen.append(("ended", self._last()))

    def failed(self, trial: int, failure: str, reason: str) -> None:
        attempt = open_study(self._study.folder).record.attempts()[-1]
        self.seen.append(("failed", str(attempt["failure"])))

    def stopping(self, reason: str) -> None:
        self.seen.append(("stopping", reason))


def test_observers_are_told_of_what_is_in_the_record(
    make_study: MakeStudy, make_epoch: MakeEpoch, shape: ImageShape
) -> None:
    study = make_study(max_epochs=2, asha={"enabled": False})
    reader = _Reader(study)
    driver = Driver(study, shape=shape, slots=1, observers=[reader])
    driver.next()
    driver.on_failure(0, Failure(kind="worker lost", reason="gone"))
    driver.next()
    driver.on_epoch(0, make_epoch(1, 0.5))
    driver.on_epoch(0, make_epoch(2, 0.5))
    assert reader.seen == [
        *(("started", "proposed"), ("failed", "worker lost"), ("started", "proposed")),
        *(("epoch", "epoch"), ("epoch", "ended"), ("ended", "ended")),
    ]


def test_what_could_not_be_written_is_told_to_nobody_and_is_not_so(
    make_study: MakeStudy, make_epoch: MakeEpoch, shape: ImageShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(max_epochs=2)
    reader = _Reader(study)
    driver = Driver(study, shape=shape, slots=1, observers=[reader])
    driver.next()
    before = study.trial(0), len(study.record.events()), list(reader.seen)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(study.record, "end_attempt", fails)  # the last of the step
        driver.on_epoch(0, make_epoch(2, 0.5))
    assert (study.trial(0), len(study.record.events()), reader.seen) == before
    assert study.record.epochs() == []
    assert study.record.start_attempt(0, from_epoch=0) == 2


@pytest.mark.parametrize("form", ["promotion", "stopping"])
def test_a_trial_is_known_as_the_record_has_it(
    make_study: MakeStudy,
    make_config: Callable[..., StudyConfig],
    make_epoch: MakeEpoch,
    shape: ImageShape,
    form: str,
) -> None:
    study = make_study(asha=PROMOTION | {"form": form}, max_epochs=4, baselines=["seed-32"])
    driver = Driver(study, shape=shape, slots=2)
    for _ in range(3):  # and as it is known after a restart
        for turn in range(9):
            assignment = driver.next()
            if assignment is None:
                break
            trial, epoch = assignment.trial, assignment.from_epoch
            action = "continue"
            while action == "continue":
                epoch += 1
                diverged = {"train_loss": float("nan")} if (trial, epoch) == (3, 2) else {}
                value = (trial * 37 % 11) / 11
                action = driver.on_epoch(trial, make_epoch(epoch, value, **diverged)).action
                if turn == 4 and epoch == 1 and action == "continue":
                    driver.on_failure(trial, Failure(kind="worker lost", reason="gone"))
                    break
            fresh = open_study(study.folder).trials()
            assert [study.trial(number) for number in range(len(fresh))] == fresh
        study = open_study(study.folder)
        driver = Driver(study, shape=shape, slots=2)
    assert len({trial.outcome for trial in study.trials()}) >= 2


def test_proposals_that_were_refused_stay_in_the_record(
    make_study: MakeStudy, shape: ImageShape
) -> None:
    driver = Driver(study := make_study(limits={"parameters": 10}), shape=shape, slots=1)
    with pytest.raises(ValueError, match="20 proposals in a row make no network that fits"):
        driver.next()
    assert len(open_study(study.folder).trials()) == 20
