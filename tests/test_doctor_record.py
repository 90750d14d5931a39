"""What is wrong with a record is named; what can be mended is, and what cannot be is left."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sick_study import content, copied, goes_on_as_if_nothing_had_been, kinds, outcomes, said
from typer.testing import CliRunner

from benchmarks.landscape import FINGERPRINT, searched, settings
from search.care.doctor import examine
from search.cli import app
from search.explain.child import bequeath
from search.record.study import open_study

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("elsewhere")]

STATE = "UPDATE study_user_attributes SET value_json = '\"{}\"' WHERE key = 'state'"
CURABLE = {
    "an attempt": (
        "stopped",
        "UPDATE fs_attempt SET ended_at = NULL, outcome = NULL WHERE trial = 12",
        r"t0012: attempt 1 has no end",
    ),
    "a session": (
        "stopped",
        "UPDATE fs_session SET ended_at = NULL",
        r"session 1 \(search, process \d+ on .+\) was left open",
    ),
    "a state": ("stopped", STATE.format("searching"), r"is `searching`, but nobody searches"),
    "no state": ("stopped", STATE.format("asleep"), r"the study is 'asleep', which is no state"),
    "a state too late": (
        "stopped",
        STATE.format("searched"),
        r"`searched`, but t0000, t0001, t0003",
    ),
    "a value of a trial in flight": (
        "stopped",
        "DELETE FROM trial_intermediate_values WHERE trial_id = 13 AND step = 5",
        r"t0012: Optuna's tables do not have the value of epoch 5",
    ),
    "a value of a trial that has ended": (
        "stopped",
        "UPDATE trial_intermediate_values SET intermediate_value = 0.1"
        " WHERE trial_id = 3 AND step = 4",
        r"t0002: Optuna's tables do not have the value of epoch 4",
    ),
    "an end": (
        "stopped",
        "UPDATE trials SET state = 'RUNNING' WHERE trial_id = 3",
        r"t0002 has ended as complete by the events, but runs in Optuna's tables",
    ),
    "another end": (
        "stopped",
        "UPDATE trials SET state = 'PRUNED' WHERE trial_id = 3",
        r"t0002 has ended as complete by the events, but has ended as pruned in Optuna's",
    ),
    "the event of an end": (
        "finished",
        "DELETE FROM fs_event WHERE kind = 'ended' AND trial = 13",
        r"t0013 runs by the events, but has ended as pruned in(.|\n)+`finished`, but t0013 can",
    ),
    "the event of a certain end": (
        "finished",
        "DELETE FROM fs_event WHERE kind = 'ended' AND trial = 12",
        r"t0012 has come to its end, but the events do not say so",
    ),
}


@pytest.mark.parametrize("what", CURABLE)
def test_what_can_be_mended_is_named_and_mended(
    what: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    name, statement, wrong = CURABLE[what]
    folder = copied(patients[name], tmp_path / "sick", statement)
    before = content(folder)
    seen = examine(folder, check=True)
    assert content(folder) == before
    assert kinds(seen) == {"can be mended"}, str(seen)
    assert re.search(wrong, said(seen)), str(seen)
    mended = examine(folder, check=False)
    assert (said(mended), kinds(mended)) == (said(seen), {"mended"}), str(mended)
    assert examine(folder, check=True).findings == ()
    if name == "stopped" or open_study(folder).state == "stopped":
        goes_on_as_if_nothing_had_been(folder, patients["finished"])
    assert outcomes(folder) == outcomes(patients["finished"])


COPY = "INSERT INTO fs_event SELECT 9999, study, {}, trial, epoch, value, outcome, reason, failure,"
COPY += " at FROM fs_event WHERE {}"
INCURABLE = {
    "an event of no trial": (
        "UPDATE fs_event SET trial = 99 WHERE id = (SELECT max(id) FROM fs_event)",
        r"event \d+ \(epoch\) is of t0099, which is not among Optuna's trials",
    ),
    "an event of no kind": (
        COPY.format("'slept'", "kind = 'proposed' AND trial = 4"),
        r"event 9999 \(slept\) is of no kind",
    ),
    "a proposal": (
        "DELETE FROM fs_event WHERE kind = 'proposed' AND trial = 4",
        r"t0004 has event \d+ \(epoch\) before its proposal",
    ),
    "all events of a trial": (
        "DELETE FROM fs_event WHERE trial = 3",
        r"t0003 has no event at all, but later trials have",
    ),
    "a proposal twice": (
        COPY.format("kind", "kind = 'proposed' AND trial = 4"),
        r"t0004 is proposed again by event 9999",
    ),
    "an epoch after the end": (
        COPY.format("kind", "kind = 'epoch' AND trial = 2 AND epoch = 9"),
        r"t0002 had ended before event 9999 \(epoch\)",
    ),
    "a trial taken up": (
        COPY.format("'reopened'", "kind = 'proposed' AND trial = 4"),
        r"t0004 is taken up again by event 9999 \(reopened\), but had not ended",
    ),
    "an epoch without its row": (
        "DELETE FROM fs_epoch WHERE trial = 4 AND epoch = 2",
        r"t0004, epoch 2: it is among the events, but not in the table of epochs",
    ),
    "an epoch without its event": (
        "DELETE FROM fs_event WHERE kind = 'epoch' AND trial = 4 AND epoch = 2",
        r"t0004, epoch 2: it is in the table of epochs, but not among the events",
    ),
    "two values": (
        "UPDATE fs_epoch SET val_accuracy = 0.99 WHERE trial = 4 AND epoch = 2",
        r"t0004, epoch 2: the events say 0\.\d+, the table of epochs 0\.99",
    ),
    "a decision on nothing": (
        "UPDATE fs_decision SET event = 9999 WHERE trial = 3",
        r"t0003 has a decision on event 9999, which is not there",
    ),
    "a decision on another trial": (
        "UPDATE fs_decision SET trial = 5 WHERE trial = 3",
        r"t0005 has a decision on event \d+, which is of another trial",
    ),
    "a promotion": (
        "DELETE FROM fs_decision WHERE action = 'promote'",
        r"t\d{4} is promoted by event \d+ without a decision",
    ),
    "a trial of Optuna's": (
        "DELETE FROM trials WHERE number = 3",
        r"of Optuna's trials, t0003 is missing",
    ),
    "a trial of another program": (
        "UPDATE trials SET state = 'WAITING' WHERE number = 3",
        r"t0003 waits in Optuna's tables: another program has put it there",
    ),
    "a configuration": (
        "UPDATE trial_user_attributes SET value_json = '{}'"
        " WHERE key = 'configuration' AND trial_id = 4",
        r"t0003 has no configuration in Optuna's tables that can be trained",
    ),
    "an attempt": (
        "DELETE FROM fs_attempt WHERE trial = 2 AND attempt = 1",
        r"t0002: attempt 1 is",
    ),
    "a value of no epoch": (
        "UPDATE trial_intermediate_values SET step = 8 WHERE trial_id = 5 AND step = 2",
        r"t0004: Optuna's tables have a value of epoch 8, we have none",
    ),
}


@pytest.mark.parametrize("what", INCURABLE)
def test_what_cannot_be_mended_is_named_and_left(
    what: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    statement, wrong = INCURABLE[what]
    folder = copied(patients["stopped"], tmp_path / "sick", statement)
    (folder / "trials" / "t0098").mkdir()  # which a record that lost trials would not know

    def record() -> list[str]:
        with sqlite3.connect(folder / "study.db") as database:
            lines = list(database.iterdump())
        database.close()
        return lines

    before = record()
    answer = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
    assert answer.exit_code == 1
    found = json.loads(answer.stdout)
    (finding, *_) = (f for f in found["findings"] if re.search(wrong, f["what"]))
    assert finding["outcome"] == "cannot be mended"
    assert finding["how"] and not found["well"]
    if "copy of the database" in finding["how"] and "attempt" not in finding["what"]:
        assert record() == before
        assert (folder / "trials" / "t0098").exists()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small study that was begun from another, stopped in good order."""
    place = tmp_path_factory.mktemp("family")
    space = {"filters": 16, "learning_rate": {"float": [0.01, 1.0], "log": True}}
    config = settings(space=space, budget={"trials": 6})
    parent, _ = searched(place / "parent", config, lambda c: 0.9 - c["learning_rate"] / 10)
    lineage = bequeath(parent, config, FINGERPRINT)
    study, _ = searched(place / "child", config, lambda c: 0.9, lineage=lineage, until=0.0)
    study.set_state("stopped")
    return study.folder


INHERITED = {
    "a value": (
        "UPDATE fs_inherited SET trial = 5 WHERE number = 3",
        r"the trials of parent, .+ are not what was written: their digest differs",
    ),
    "a trial": (
        "DELETE FROM fs_inherited WHERE number = 3",
        r"the trials of parent, .+ are not what was written: their digest differs",
    ),
    "a curve": (
        "UPDATE fs_inherited SET curve = '[1' WHERE number = 3",
        r"the trials of parent, .+ cannot be read",
    ),
    "a curve without epochs": (
        "UPDATE fs_inherited SET curve = '[1]' WHERE number = 3",
        r"the trials of parent, .+ cannot be read",
    ),
    "whose they are": (
        "DELETE FROM study_user_attributes WHERE key = 'lineage'",
        r"trials of an earlier study are there, but not whose they are",
    ),
    "the table": (
        "ALTER TABLE fs_inherited RENAME TO fs_other",
        r"the trials of parent, .+ are gone: the database has no table fs_inherited",
    ),
}


def test_what_a_sound_child_inherited_is_in_order(child: Path) -> None:
    assert said(examine(child, check=True)) == "", said(examine(child, check=True))


@pytest.mark.parametrize("what", INHERITED)
def test_what_was_inherited_and_is_no_more_is_named(what: str, child: Path, tmp_path: Path) -> None:
    statement, wrong = INHERITED[what]
    folder = tmp_path / "sick"
    shutil.copytree(child, folder)
    with closing(sqlite3.connect(folder / "study.db")) as database:
        database.execute(statement)
        database.commit()
    for check in (True, False):
        (finding,) = examine(folder, check=check).findings
        assert re.fullmatch(wrong, finding.what), finding
        assert finding.outcome == "cannot be mended"
        assert finding.how == "put a copy of the database back, or begin the study again"


def test_nothing_is_built_on_a_damaged_record(patients: dict[str, Path], tmp_path: Path) -> None:
    damage = "UPDATE fs_decision SET event = 9999 WHERE trial = 3"
    folder = copied(patients["killed"], tmp_path / "sick", damage)
    found = examine(folder, check=False)
    assert [finding.outcome for finding in found.findings] == ["cannot be mended", "mended"]
    assert "t0003 has a decision on" in found.findings[0].what
    assert found.findings[1].what.startswith("session 1 ")
    study = open_study(folder)
    assert study.state == "searching"
    assert [row["trial"] for row in study.record.attempts() if row["ended_at"] is None] == [12]
