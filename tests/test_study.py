"""The record: one folder, one database, and what is read back from them."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.machine.environment import describe_environment
from search.prune.ladder import Decision
from search.record import record as record_module
from search.record.record import EpochRow
from search.record.study import (
    FORMAT,
    Outcome,
    Study,
    StudyError,
    Trial,
    best_of,
    create,
    open_study,
    trial_name,
)
from search.record.whole_file import write_json

MakeConfig = Callable[..., StudyConfig]
MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
STOP = Decision(
    trial=3,
    action="stop",
    bracket=0,
    rung=1,
    value=0.5,
    cutoff=0.6,
    rank=3,
    competitors=4,
    reason="rank 3 of 5",
)


def _row(epoch: int, val_accuracy: float | None) -> EpochRow:
    values: dict[str, Any] = dict.fromkeys(EpochRow.__slots__, 0.0)
    return EpochRow(**(values | {"trial": 0, "epoch": epoch, "val_accuracy": val_accuracy}))


def _trial(number: int, outcome: Outcome, *values: float | None, parameters: int = 100) -> Trial:
    return Trial(
        number=number,
        outcome=outcome,
        reason="",
        origin="sampler",
        configuration=None,
        parameters=parameters,
        multiply_adds=None,
        refusal="",
        proposal={},
        epochs=tuple(_row(epoch, value) for epoch, value in enumerate(values, start=1)),
    )


def test_a_study_is_made_and_opened_again(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(baselines=["seed-32"], points=[{"filters_1": 8}, {"learning_rate": 0.1}])
    facts, environment = {"data": {"fingerprint": "ab12"}}, {"torch": "2.13", "commit": "abc"}
    made = create(config, tmp_path / "runs" / "mine", facts=facts, environment=environment)
    assert {path.name for path in made.folder.glob("*")} >= {"config.yaml", "study.db", "trials"}
    head = (made.folder / "config.yaml").read_text(encoding="utf-8").splitlines()[:2]
    assert head == ["# torch: 2.13", "# commit: abc"]
    study = open_study(made.folder)
    assert study.config == config
    assert (study.name, study.state) == ("mine", "created")
    assert study.noted("data") == {"fingerprint": "ab12"}
    assert study.noted("environment") == environment
    assert study.noted("nothing") is None
    # Trials are made when they are proposed, the given ones too.
    assert study.trials() == []


def test_what_is_noted_is_there_after_opening_again(make_study: MakeStudy) -> None:
    study = make_study()
    study.set_state("stopped")
    study.note("substitution", "drawn images")
    study = open_study(study.folder)
    assert study.state == "stopped"
    assert study.noted("substitution") == "drawn images"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_taken_name_is_refused_and_left_alone(
    tmp_path: Path, make_config: MakeConfig, kind: str
) -> None:
    path = tmp_path / "taken"
    kept = path / "kept" if kind == "folder" else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(StudyError, match="taken exists; go on with it by `resume taken`, or give"):
        create(make_config(), path, facts={}, environment={})
    assert kept.read_text() == "mine"


def test_an_empty_folder_is_taken_into_use(tmp_path: Path, make_config: MakeConfig) -> None:
    assert create(make_config(), tmp_path, facts={}, environment={}).state == "created"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="file/study cannot be made: Not a directory"):
        create(make_config(), tmp_path / "file" / "study", facts={}, environment={})


@pytest.mark.parametrize("missing", ["config.yaml", "study.db"])
def test_a_folder_without_its_files_is_no_study(make_study: MakeStudy, missing: str) -> None:
    folder = make_study().folder
    (folder / missing).unlink()
    told = {"config.yaml": "has no config.yaml: put that back", "study.db": "holds no study"}
    with pytest.raises(StudyError, match=told[missing]):
        open_study(folder)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (1, r"small was written by a newer version \(format {0}, this reads {1}\); update"),
        (-1, r"by an older version \(format {0}, this reads {1}\); begin it again with `run"),
    ],
)
def test_another_format_is_refused_even_if_its_keys_are_unknown(
    make_study: MakeStudy, step: int, message: str
) -> None:
    study = make_study()
    study.note("format", FORMAT + step)
    (study.folder / "config.yaml").write_text("new_key: 1\n")
    with pytest.raises(StudyError, match=message.format(FORMAT + step, FORMAT)):
        open_study(study.folder)


@pytest.mark.parametrize("attributes", range(4))
def test_a_study_that_was_not_made_to_its_end_is_refused(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, attributes: int
) -> None:
    note = optuna.Study.set_user_attr
    noted: list[str] = []

    def killed(study: optuna.Study, key: str, value: Any) -> None:
        if len(noted) == attributes:
            raise KeyboardInterrupt
        noted.append(key)
        note(study, key, value)

    monkeypatch.setattr(optuna.Study, "set_user_attr", killed)
    with pytest.raises(KeyboardInterrupt):
        create(make_config(), tmp_path / "half", facts={"data": {}}, environment={})
    assert len(noted) == attributes
    with pytest.raises(StudyError, match=r"half has no config.yaml: put that back"):
        open_study(tmp_path / "half")


def test_a_damaged_database_is_told_in_one_line(make_study: MakeStudy) -> None:
    folder = make_study().folder
    for path in folder.glob("study.db*"):
        path.unlink()
    (folder / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(
        StudyError, match=r"study\.db cannot be read: file is not a database; put a copy back"
    ):
        open_study(folder)


def test_a_mistake_in_the_saved_configuration_is_told_with_its_line(make_study: MakeStudy) -> None:
    path = make_study().folder / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 9", "max_epochs: x"))
    with pytest.raises(StudyError, match=r"config\.yaml:\d+: `max_epochs` is 'x', but must be"):
        open_study(path.parent)


def test_the_database_is_in_wal_mode_and_opens_with_plain_optuna(make_study: MakeStudy) -> None:
    study = make_study()
    study.optuna.ask()
    path = study.folder / "study.db"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    plain = optuna.load_study(study_name="small", storage=f"sqlite:///{path}")
    assert plain.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in plain.trials] == ["RUNNING"]


def test_an_epoch_is_read_back_as_it_was_recorded(
    make_study: MakeStudy, make_epoch: MakeEpoch
) -> None:
    record = make_study().record
    record.add_epoch(3, 1, make_epoch(1, 0.5), 0.5, STOP)
    (row,) = record.epochs()
    assert (row.trial, row.epoch, row.attempt) == (3, 1, 1)
    assert (row.train_loss, row.val_accuracy, row.seconds) == (0.5, 0.5, 1.5)
    (decision,) = record.decisions()
    assert decision["action"] == "stop"
    assert decision["reason"] == "rank 3 of 5"
    assert (decision["trial"], decision["epoch"], decision["rung"]) == (3, 1, 1)
    assert decision["bracket"] == 0
    (event,) = record.events()
    assert decision["event"] == event.id
    assert (event.kind, event.trial, event.epoch, event.value) == ("epoch", 3, 1, 0.5)
    assert (decision["value"], decision["cutoff"]) == (0.5, 0.6)
    assert (decision["rank"], decision["competitors"]) == (3, 4)


def test_values_that_are_not_finite_are_recorded_as_missing(
    make_study: MakeStudy, make_epoch: MakeEpoch
) -> None:
    record = make_study().record
    record.add_epoch(0, 1, make_epoch(1, 0.1, train_loss=math.nan, val_loss=math.inf), None)
    (row,) = record.epochs()
    assert (row.train_loss, row.val_loss, row.val_accuracy) == (None, None, 0.1)
    # What was judged is noted beside it: nothing here.
    assert [event.value for event in record.events()] == [None]


def test_an_epoch_recorded_twice_counts_once_and_the_later_one_stays(
    make_study: MakeStudy, make_epoch: MakeEpoch
) -> None:
    record = make_study().record
    record.add_epoch(0, 1, make_epoch(1, 0.5), 0.5)
    record.add_epoch(0, 1, make_epoch(2, 0.6), 0.6)
    record.add_epoch(1, 1, make_epoch(2, 0.9), 0.9)
    record.add_epoch(0, 2, make_epoch(2, 0.7), 0.7)
    rows = [(row.trial, row.epoch, row.attempt, row.val_accuracy) for row in record.epochs()]
    assert rows == [(0, 1, 1, 0.5), (0, 2, 2, 0.7), (1, 2, 1, 0.9)]
    assert [row.epoch for row in record.epochs(1)] == [2]
    # Both happened, and both were judged.
    events = [(event.trial, event.epoch, event.value) for event in record.events()]
    assert events == [(0, 1, 0.5), (0, 2, 0.6), (1, 2, 0.9), (0, 2, 0.7)]


def test_an_epoch_is_not_recorded_without_its_decision(
    make_study: MakeStudy, make_epoch: MakeEpoch
) -> None:
    record = make_study().record
    broken = replace(STOP, reason=None)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"NOT NULL constraint failed: fs_decision\.reason"):
        record.add_epoch(0, 1, make_epoch(1, 0.5), 0.5, broken)
    assert (record.epochs(), record.events()) == ([], [])


def test_what_happened_is_kept_in_order_with_what_was_decided(
    make_study: MakeStudy, make_epoch: MakeEpoch
) -> None:
    study = make_study()
    record = study.record
    record.add_event("proposed", 0)
    record.add_event("proposed", 1)
    record.add_epoch(1, 1, make_epoch(1, 0.5), 0.5)
    record.add_event("promoted", 1, decision=replace(STOP, trial=1, action="promote", rung=9))
    record.add_event("ended", 0, outcome="failed", reason="ValueError: no")
    events = open_study(study.folder).record.events()
    assert [(e.kind, e.trial, e.epoch, e.value, e.outcome, e.reason) for e in events] == [
        ("proposed", 0, None, None, None, None),
        ("proposed", 1, None, None, None, None),
        ("epoch", 1, 1, 0.5, None, None),
        ("promoted", 1, None, None, None, None),
        ("ended", 0, None, None, "failed", "ValueError: no"),
    ]
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    (decision,) = record.decisions()
    assert (decision["event"], decision["action"]) == (ids[3], "promote")
    # A promotion is no epoch's: it has that of the rung.
    assert (decision["epoch"], decision["rung"]) == (9, 9)


def test_attempts_are_numbered_by_trial_and_end_each_with_its_reason(make_study: MakeStudy) -> None:
    record = make_study().record
    assert record.start_attempt(4, from_epoch=0) == 1
    record.place_attempt(4, 1, node="host", pid=77)
    record.end_attempt(4, 1, outcome="lost", reason="the worker process died")
    assert record.start_attempt(4, from_epoch=2) == 2
    assert record.start_attempt(5, from_epoch=0) == 1
    first, second, other = record.attempts()
    assert (first["node"], first["pid"], first["outcome"]) == ("host", 77, "lost")
    assert first["ended_at"] >= first["started_at"]
    assert (second["attempt"], second["from_epoch"], second["outcome"]) == (2, 2, None)
    assert (other["trial"], other["attempt"]) == (5, 1)


def test_attempts_of_a_killed_driver_end_where_they_were_last_seen(
    make_study: MakeStudy, make_epoch: MakeEpoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    record, now = study.record, 1000.0
    monkeypatch.setattr(record_module.time, "time", lambda: now)
    study.sessions.start("search", host="host", pid=1)
    for trial in (0, 1, 2):
        record.start_attempt(trial, from_epoch=0)
    now = 1060.0
    record.add_epoch(0, 1, make_epoch(1, 0.5), 0.5)
    record.end_attempt(2, 1, outcome="complete", reason="")
    now = 1075.0  # the driver is there, no trial has come to the end of an epoch
    study.sessions.see()
    now = 1077.0
    record.start_attempt(3, from_epoch=0)
    now = 90000.0  # the next day
    study = open_study(study.folder)
    study.sessions.start("retrain", host="host", pid=2)
    study.sessions.start("search", host="host", pid=3)
    record = study.record
    record.close_attempts("the driver ended before it")
    ends = [(row["outcome"], row["ended_at"]) for row in record.attempts()]
    assert ends[:2] == [("stopped", 1075.0)] * 2
    assert ends[2:] == [("complete", 1060.0), ("stopped", 1077.0)]
    assert study.sessions.spent_seconds("search") == 75.0
    assert record.attempts()[0]["reason"] == "the driver ended before it"


def test_the_attempts_of_a_trial_that_failed_are_told_in_order(make_study: MakeStudy) -> None:
    record = make_study().record
    ends = (("lost", "worker lost"), ("stopped", None), ("lost", "out of memory"))
    for epoch, (outcome, failure) in enumerate(ends):
        attempt = record.start_attempt(4, from_epoch=epoch)
        record.end_attempt(4, attempt, outcome=outcome, reason=f"why {epoch}", failure=failure)
    record.end_attempt(5, record.start_attempt(5, from_epoch=0), outcome="failed", reason="no")
    record.add_event("ended", 4, outcome="failed", reason="no more", failure="out of memory")
    assert record.failures(4) == [
        {"attempt": 1, "failure": "worker lost", "from_epoch": 0, "reason": "why 0"},
        {"attempt": 3, "failure": "out of memory", "from_epoch": 2, "reason": "why 2"},
    ]
    assert record.failures(5) == []
    kinds = [row["failure"] for row in record.attempts()]
    assert kinds == ["worker lost", None, "out of memory", None]
    assert [event.failure for event in record.events()] == ["out of memory"]


def test_a_reason_may_hold_what_no_database_takes(make_study: MakeStudy) -> None:
    record = make_study().record
    reason = "ValueError: \0 and \udcff in a name"
    record.add_event("ended", 0, outcome="failed", reason=reason)
    record.end_attempt(0, record.start_attempt(0, from_epoch=0), outcome="failed", reason=reason)
    expected = "ValueError: \\x00 and \\udcff in a name"
    assert [record.events()[0].reason, record.attempts()[0]["reason"]] == [expected] * 2


def test_looks_at_the_test_set_are_kept_in_order(make_study: MakeStudy) -> None:
    study = make_study()
    study.record.add_look(reason="final evaluation", models='{"s0": "ab"}', broke_seal=False)
    study.record.add_look(reason="again", models="{}", broke_seal=True)
    looks = [
        (look["reason"], look["broke_seal"]) for look in open_study(study.folder).record.looks()
    ]
    assert looks == [("final evaluation", False), ("again", True)]


def test_the_time_between_sessions_is_not_spent(
    make_study: MakeStudy, make_epoch: MakeEpoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    now = 1000.0
    monkeypatch.setattr(record_module.time, "time", lambda: now)
    study.sessions.start("search", host="host", pid=1)
    now = 1060.0
    study.record.add_epoch(0, 1, make_epoch(1, 0.5), 0.5)
    # That driver is killed; the next day another goes on, and is killed too.
    study = open_study(study.folder)
    now = 90000.0
    study.sessions.start("search", host="host", pid=2)
    now = 90030.0
    study.record.add_epoch(0, 2, make_epoch(2, 0.5), 0.5)
    # A third ends well; another stage is not searching.
    study = open_study(study.folder)
    third = study.sessions.start("search", host="host", pid=3)
    now = 90040.0
    study.sessions.end(third)
    study.sessions.start("retrain", host="host", pid=4)
    now = 90140.0
    assert study.sessions.spent_seconds("search") == 60 + 30 + 10
    assert [session["ended_at"] is None for session in study.sessions.all()] == [
        *(True, True, False),
        True,
    ]


def test_a_trial_is_worth_its_best_epoch_the_last_of_equals() -> None:
    trial = _trial(7, "complete", 0.5, 0.8, None, 0.8, 0.7)
    assert (trial.value, trial.best_epoch) == (0.8, 4)
    assert trial.name == trial_name(7) == "t0007"


def test_nothing_right_is_a_value_and_nothing_measured_is_none() -> None:
    assert (_trial(0, "complete", 0.0).value, _trial(0, "complete", 0.0).best_epoch) == (0.0, 1)
    assert (_trial(0, "running").value, _trial(0, "running").best_epoch) == (None, None)
    assert _trial(0, "infeasible", None).value is None


def test_the_best_trial_has_the_highest_accuracy_at_any_epoch() -> None:
    trials = [
        _trial(0, "complete", 0.7, 0.8),
        _trial(1, "pruned", 0.9),  # stopped, yet never beaten
        _trial(2, "complete", 0.85, 0.6),
    ]
    best = best_of(trials)
    assert best is not None and best.number == 1


def test_equal_trials_are_settled_by_size_then_by_number() -> None:
    trials = [
        _trial(0, "complete", 0.8, parameters=300),
        _trial(1, "complete", 0.8, parameters=200),
        _trial(2, "complete", 0.8, parameters=200),
    ]
    best = best_of(trials)
    assert best is not None and best.number == 1


@pytest.mark.parametrize("outcome", ["infeasible", "failed"])
def test_trials_that_diverged_or_failed_cannot_be_the_best(outcome: Outcome) -> None:
    best = best_of([_trial(0, outcome, 0.99), _trial(1, "complete", 0.1)])
    assert best is not None and best.number == 1
    assert best_of([_trial(0, outcome, 0.99), _trial(1, "complete")]) is None
    assert best_of([]) is None


def test_a_trial_that_waits_for_promotion_can_be_the_best() -> None:
    # In the promotion form nearly all of them do, also when the search is interrupted.
    best = best_of([_trial(0, "running", 0.9), _trial(1, "complete", 0.8), _trial(2, "running")])
    assert best is not None and best.number == 0


def test_a_trial_has_a_folder_named_after_it(make_study: MakeStudy) -> None:
    study = make_study()
    assert study.trial_folder(12) == study.folder / "trials" / "t0012"


def test_the_environment_names_versions_and_hardware() -> None:
    facts = describe_environment(Path(__file__).parent.parent)
    assert {"python", "torch", "ray", "optuna", "numpy", "processor", "cpus", "commit"} <= set(
        facts
    )
    assert all(isinstance(value, str) and value and "\n" not in value for value in facts.values())


def test_the_environment_says_where_the_commit_is_unknown(tmp_path: Path) -> None:
    assert describe_environment(tmp_path)["commit"] == "unknown"


def test_json_replaces_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"old": list(range(1000))})
    write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == {"new": 1}
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"new": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_who_looks_while_a_study_is_made_sees_none_and_does_not_disturb(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    folder, over, seen = tmp_path / "small", threading.Event(), list[str]()

    def look() -> None:
        while not over.is_set():
            try:
                open_study(folder)
                seen.append("made")
            except StudyError as error:
                seen.append(str(error))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        study = create(make_config(), folder, facts={"a": 1}, environment={})
    finally:
        over.set()
        reader.join()
    assert study.noted("a") == 1
    told = ("holds no study", "has no config.yaml", "made")
    assert all(any(part in text for part in told) for text in seen)
    assert len(seen) > 1
