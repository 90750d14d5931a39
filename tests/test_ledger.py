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


def test_a_trial_is_written_whole_or_not_at_all(study: optuna.Study, tmp_path: Path) -> None:
    ledger, left = Ledger(study), 0
    ledger.add(_template(0))
    (first,) = _read(study, tmp_path)

    def count(*args: Any) -> None:
        nonlocal left
        if str(args[2]).startswith("INSERT"):
            left -= 1
            if left < 0:
                raise Killed

    storage: Any = study._storage
    engine = getattr(storage, "_backend", storage).engine
    sa.event.listen(engine, "before_cursor_execute", count)
    deaths = 0
    for writes in range(100):
        left = writes
        try:
            Ledger(study).add(_template(1))
        except Killed:
            deaths += 1
            # The process is gone, and with it what it had not committed.
            getattr(storage, "_backend", storage).scoped_session.remove()
            assert _read(study, tmp_path) == [first]
        else:
            break
    # One for the trial itself, one for each parameter and each fact.
    assert deaths == 1 + 2 + 3
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
def test_a_trial_s_end_is_written_after_its_reason(
    study: optuna.Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: TrialState,
    value: float | None,
) -> None:
    ledger = Ledger(study)
    ledger.add(_template(0))
    ledger.report(0, 1, 0.5)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", killed)
        with pytest.raises(Killed):
            ledger.end(0, state, value, {"reason": "because"})
    (trial,) = _read(study, tmp_path)
    # Killed in between it still runs: the next driver writes both again.
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.RUNNING, "because")
    ledger.end(0, state, value, {"reason": "because"})
    (trial,) = _read(study, tmp_path)
    assert (trial.state, trial.user_attrs["reason"]) == (state, "because")
    assert trial.value == {"COMPLETE": 0.7, "PRUNED": 0.5, "FAIL": None}[state.name]


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
