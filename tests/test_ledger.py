"""Optuna's tables on disk: every trial written whole, every end told last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.propose.ledger import Ledger


class Killed(BaseException):
    """Stands for the end of the process."""


def _template(number: int) -> FrozenTrial:
    template = create_trial(
        state=TrialState.RUNNING,
        params={"width": 8 + number, "rate": 0.1},
        distributions={"width": IntDistribution(8, 64), "rate": FloatDistribution(0.01, 1.0)},
        user_attrs={"origin": "sampler", "configuration": {"filters": [8, 16]}, "key": "ab"},
    )
    template.number = number
    return template


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Return an empty study on disk."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def _read(study: optuna.Study, tmp_path: Path) -> list[FrozenTrial]:
    """Return the trials as another process sees them."""
    return _load(tmp_path).trials


def _load(tmp_path: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    return optuna.load_study(study_name="s", storage=storage)


def test_a_trial_is_written_as_it_was_proposed(study: optuna.Study, tmp_path: Path) -> None:
    ledger = Ledger(study)
    for number in (0, 1):
        ledger.add(_template(number))
    for number, trial in enumerate(_read(study, tmp_path)):
        template = _template(number)
        assert (trial.number, trial.state) == (number, TrialState.RUNNING)
        assert (trial.params, trial.distributions) == (template.params, template.distributions)
        assert trial.user_attrs == template.user_attrs


class _Writes:
    """Ends the process before one of the statements that write."""

    def __init__(self, study: optuna.Study) -> None:
        self.left = 10**9
        storage: Any = study._storage
        sa.event.listen(storage._backend.engine, "before_cursor_execute", self._count)

    def _count(self, *args: Any) -> None:
        if str(args[2]).startswith(("INSERT", "UPDATE", "DELETE")):
            self.left -= 1
            if self.left < 0:
                raise Killed


def test_a_trial_is_written_whole_or_not_at_all(study: optuna.Study, tmp_path: Path) -> None:
    Ledger(study).add(_template(0))
    (first,) = _read(study, tmp_path)
    writes = _Writes(study)
    deaths = 0
    for writes.left in range(100):
        try:
            Ledger(study).add(_template(1))
        except Killed:
            deaths += 1
            assert _read(study, tmp_path) == [first]
        else:
            break
    # One for the trial itself, one for its parameters, one for its facts.
    assert deaths == 3
    assert _read(study, tmp_path)[1].user_attrs == _template(1).user_attrs


def test_a_process_that_writes_beside_it_is_noticed(study: optuna.Study) -> None:
    ledger = Ledger(study)
    ledger.add(_template(0))
    study.ask()
    with pytest.raises(AssertionError, match="another process writes to this study"):
        ledger.add(_template(1))


def test_an_epoch_that_is_reported_again_is_replaced(study: optuna.Study, tmp_path: Path) -> None:
    ledger = Ledger(study)
    ledger.add(_template(0))
    for epoch, value in ((1, 0.3), (2, 0.5), (1, 0.4)):
        ledger.report(0, epoch, value)
    ledger.note(0, {"remark": "slow", "origin": "point 1"})
    (trial,) = _read(study, tmp_path)
    assert trial.intermediate_values == {1: 0.4, 2: 0.5}
    assert (trial.user_attrs["remark"], trial.user_attrs["origin"]) == ("slow", "point 1")


@pytest.mark.parametrize(
    ("state", "value"),
    [(TrialState.COMPLETE, 0.7), (TrialState.PRUNED, 0.7), (TrialState.FAIL, 0.7)],
)
def test_a_trial_s_end_is_written_with_its_reason_or_not_at_all(
    study: optuna.Study, tmp_path: Path, state: TrialState, value: float | None
) -> None:
    ledger = Ledger(study)
    ledger.add(_template(0))
    for epoch, reported in ((2, 0.5), (1, 0.6)):
        ledger.report(0, epoch, reported)
    (before,) = _read(study, tmp_path)
    writes = _Writes(study)
    deaths = 0
    for writes.left in range(100):
        try:
            ledger.end(0, state, value, {"reason": "because"})
        except Killed:
            deaths += 1
            assert _read(study, tmp_path) == [before]
        else:
            break
    # The reason, the state, and the value where there is one.
    assert deaths == (2 if state == TrialState.FAIL else 3)
    (trial,) = _read(study, tmp_path)
    assert (trial.state, trial.user_attrs["reason"]) == (state, "because")
    assert trial.value == {"COMPLETE": 0.7, "PRUNED": 0.5, "FAIL": None}[state.name]
    writes.left = 10**9
    with pytest.raises(AssertionError, match="trial 0 has ended already"):
        ledger.end(0, state, value, {})


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
@pytest.mark.parametrize("reported", [{}, {1: 0.25, 3: 0.5, 2: 0.75}])
def test_the_rows_are_those_that_optuna_itself_would_write(
    tmp_path: Path, state: TrialState, reported: dict[int, float]
) -> None:
    kinds = ("ours", "memory", "optuna's")
    studies = {
        kind: optuna.create_study(
            storage=None if kind == "memory" else f"sqlite:///{tmp_path / kind}.db",
            direction="maximize",
        )
        for kind in kinds
    }
    facts = {"reason": "because", "nested": {"of": [1, 2.5, None]}}
    value = 0.1 + 0.2 if state == TrialState.COMPLETE else None
    for kind in ("ours", "memory"):
        ledger = Ledger(studies[kind])
        for number in (0, 1):
            ledger.add(_template(number))
        for epoch, accuracy in reported.items():
            ledger.report(0, epoch, accuracy)
        ledger.end(0, state, value, facts)
    theirs = studies["optuna's"]
    storage = theirs._storage
    for number in (0, 1):
        storage.create_new_trial(theirs._study_id, _template(number))
    key = theirs.get_trials()[0]._trial_id
    for epoch, accuracy in reported.items():
        storage.set_trial_intermediate_value(key, epoch, accuracy)
    for name, fact in facts.items():
        storage.set_trial_user_attr(key, name, fact)
    theirs.tell(0, value, state=state)
    seen = {kind: [_plain(trial) for trial in studies[kind].get_trials()] for kind in kinds}
    assert seen["ours"] == seen["optuna's"] == seen["memory"]
    if state == TrialState.COMPLETE:
        assert len({study.best_trial.number for study in studies.values()}) == 1
    # Times, in Optuna's own words: within a minute of each other, in the same time zone.
    times = [study.get_trials()[0] for study in studies.values()]
    for when in ("datetime_start", "datetime_complete"):
        stamps = [getattr(trial, when).timestamp() for trial in times]
        assert max(stamps) - min(stamps) < 60


def _plain(trial: FrozenTrial) -> list[Any]:
    return [
        *(trial.number, trial.state, trial.params, trial.distributions, trial.values),
        *(trial.user_attrs, trial.system_attrs, trial.intermediate_values),
    ]


@pytest.mark.parametrize("kind", ["open", "opened", "memory"])
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_a_trial_that_has_ended_is_reopened_as_it_was_before(
    study: optuna.Study, tmp_path: Path, kind: str, state: TrialState
) -> None:
    if kind == "memory":
        study = optuna.create_study(direction="maximize")
    ledger = Ledger(study)
    for number in (0, 1):
        ledger.add(_template(number))
        ledger.report(number, 1, 0.5)
    before = study.get_trials()
    ends = {"reason": "because", "failure": "bug", "infeasible": True, "untrainable": True}
    ledger.end(0, state, 0.5, ends)
    ledger.end(1, TrialState.PRUNED, None, {"reason": "later"})
    assert study.get_trials(deepcopy=False)[0].state == state
    if kind == "opened":  # nothing of it was read yet
        study = _load(tmp_path)
    ledger = Ledger(study)
    ledger.reopen(0)

    def seen() -> list[list[FrozenTrial]]:
        # By whoever has it open, and by whoever opens it now.
        return [study.get_trials(), *([] if kind == "memory" else [_read(study, tmp_path)])]

    for trials in seen():
        assert trials[0] == before[0]
        assert trials[1].state == TrialState.PRUNED
    ledger.report(0, 2, 0.6)
    ledger.end(0, TrialState.COMPLETE, 0.6, {"reason": "all of it"})
    for trials in seen():
        assert (trials[0].value, trials[0].intermediate_values) == (0.6, {1: 0.5, 2: 0.6})
        assert trials[0].user_attrs == before[0].user_attrs | {"reason": "all of it"}
