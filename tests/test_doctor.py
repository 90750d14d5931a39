"""`doctor` names what is wrong with a study's record, mends it, and leaves all else alone."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from killing import Kill, Killed
from sick_study import begin, content, copied, goes_on_as_if_nothing_had_been, killed, kinds, said
from simulated_search import SEARCH, search_on, told
from typer.testing import CliRunner

from model.train import EpochMetrics
from search.care.diagnosis import Diagnosis, Finding
from search.care.doctor import examine
from search.cli import app
from search.config.config import StudyConfig
from search.drive.extend import Wish, extend
from search.engine.ray_root import PLACE
from search.explain.verify import verify
from search.propose.ledger import Ledger
from search.record.lock import hold
from search.record.record import Record
from search.record.study import StudyError, open_study

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("elsewhere")]


@pytest.mark.parametrize("name", ["stopped", "finished"])
def test_nothing_is_wrong_with_a_study_that_is_well(
    name: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(patients[name], tmp_path / name)
    before = content(folder)
    answer = CliRunner().invoke(app, ["doctor", str(folder)])
    assert answer.exit_code == 0
    first, last = answer.stdout.splitlines()
    assert first == f"{name}: nothing is wrong"
    assert last.endswith(f"python -m search verify {name}")
    after = content(folder)
    del after[".lock"]
    assert after == before


def test_a_killed_study_is_looked_at_without_a_trace_then_mended_and_goes_on(
    patients: dict[str, Path], make_config: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    still_open = killed(tmp_path / "before", make_config(**SEARCH))
    folder = tmp_path / "killed"
    shutil.copytree(still_open.folder, folder)  # with the log that nobody moved to the database
    before = content(folder)
    assert (folder / "study.db-wal").stat().st_size > 0
    seen = examine(folder, check=True)
    assert content(folder) == before
    assert (kinds(seen), seen.is_well) == ({"can be mended"}, False)
    wrong = (
        r"session 1 \(search, process \d+ on .+\).+\nt0012: attempt 1 .+\nthe study is `searching`"
    )
    assert re.match(wrong, said(seen))
    mended = examine(folder, check=False)
    assert [f.what for f in mended.findings] == [f.what for f in seen.findings]
    assert (kinds(mended), mended.is_well) == ({"mended"}, True)
    assert examine(folder, check=False).findings == ()
    study = open_study(folder)
    (session,) = study.sessions.all()
    assert session["ended_at"] == session["seen_at"]  # not today: it would count as searched
    assert study.state == "stopped"
    search_on(study)
    assert told(study) == told(open_study(patients["finished"]))
    assert verify(study).difference is None


@pytest.mark.parametrize("apart", [False, True])
def test_a_driver_may_die_at_any_write(
    apart: bool,
    patients: dict[str, Path],
    make_config: Callable[..., StudyConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill = Kill(monkeypatch, apart=apart)
    folder, moments = begin(tmp_path / "small", make_config(**SEARCH)).folder, random.Random(0)
    deaths, wrong = 0, ""
    while True:
        kill.left = moments.randrange(5, 30)
        try:
            search_on(open_study(folder))
            break
        except Killed:
            deaths += 1
        finally:
            kill.left = math.inf
        found = examine(folder, check=False)
        wrong += said(found)
        assert kinds(found) <= {"mended"}, str(found)
        assert examine(folder, check=False).findings == ()
    assert deaths > 5 and "has no end" in wrong
    goes_on_as_if_nothing_had_been(folder, patients["finished"])


def test_an_extension_that_was_broken_off_is_completed(
    patients: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(patients["finished"], tmp_path / "sick")
    reopen, calls = Ledger.reopen, []

    def dying(ledger: Ledger, number: int) -> None:
        calls.append(number)
        if len(calls) == 3:
            raise Killed
        reopen(ledger, number)

    monkeypatch.setattr(Ledger, "reopen", dying)
    with pytest.raises(Killed):
        extend(open_study(folder), Wish(trials="+4"))
    monkeypatch.undo()
    monkeypatch.setenv(PLACE, str(tmp_path))
    seen = examine(folder, check=True)
    wrong = said(seen)
    assert "config.yaml does not say what the study was extended to" in wrong
    assert "t0003 runs by the events, but has ended as pruned in Optuna's tables" in wrong
    assert kinds(examine(folder, check=False)) == {"mended"}
    assert examine(folder, check=False).findings == ()
    assert "\n  trials: 18\n" in (folder / "config.yaml").read_text()
    study = search_on(open_study(folder))
    assert len(study.trials()) == 18
    assert verify(study).difference is None


def test_a_study_that_is_worked_on_is_only_looked_at(
    patients: dict[str, Path], tmp_path: Path
) -> None:
    wrong = "UPDATE fs_epoch SET val_accuracy = 0.99 WHERE trial = 4 AND epoch = 2"
    folder = copied(patients["killed"], tmp_path / "busy", wrong)
    (folder / "final.part").mkdir()
    with hold(open_study(folder)):
        before = content(folder)
        answer = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
        assert content(folder) == before
    found = json.loads(answer.stdout)
    assert re.match(rf"process {os.getpid()} on \S+ since 20", found["worked_on_by"])
    (finding,) = found["findings"]  # not the open attempt: that is the other one's business
    assert finding["what"].startswith("t0004, epoch 2: the events say")
    assert (finding["outcome"], answer.exit_code) == ("cannot be mended", 1)


def test_what_changes_while_it_is_looked_at_is_no_damage(
    patients: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(patients["killed"], tmp_path / "busy")
    driver = open_study(folder)
    read = Record.events
    looks = iter((6, 7))

    def as_it_goes_on(record: Record) -> Any:
        # The epochs were read before this one was trained, and its event is read after.
        if epoch := next(looks, 0):
            (row,) = (r for r in driver.record.epochs(12) if r.epoch == 5)
            metrics = {f.name: getattr(row, f.name) for f in fields(EpochMetrics)}
            told = EpochMetrics(**metrics | {"epoch": epoch})
            driver.record.add_epoch(12, 1, told, told.val_accuracy)
        return read(record)

    with hold(driver):
        monkeypatch.setattr(
            Record,
            "events",
            lambda self, kind=None: read(self, kind) if kind else as_it_goes_on(self),
        )
        assert examine(folder, check=False).findings == ()
    assert next(looks, None) is None


def test_it_is_told_on_a_few_lines(patients: dict[str, Path], tmp_path: Path) -> None:
    wrong = "DELETE FROM trial_intermediate_values WHERE trial_id IN (2, 3, 4)"
    folder = copied(patients["finished"], tmp_path / "sick", wrong)
    (folder / "report.md").unlink()
    answer = CliRunner().invoke(app, ["doctor", str(folder)])
    assert answer.exit_code == 1
    assert answer.stdout.splitlines() == [
        "sick: 4 findings: 3 mended, 1 cannot be mended",
        "mended: t0001: Optuna's tables do not have the value of epoch 1",
        "    they are told of it",
        "mended: t0002: Optuna's tables do not have the value of epoch 1",
        "    they are told of it",
        "mended: t0003: Optuna's tables do not have the value of epoch 1",
        "    they are told of it",
        "cannot be mended: report.md is gone",
        "    make it again: python -m search report sick",
        "what a search decided is checked by: python -m search verify sick",
    ]
    lines = str(
        Diagnosis(
            study="sick",
            findings=tuple(
                Finding(what=f"t{n:04d} is ill", outcome="can be mended", how="") for n in range(50)
            ),
        )
    ).splitlines()
    assert lines[20:22] == ["can be mended: t0019 is ill", "and 30 more; --json has them all"]


def test_a_study_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        examine(tmp_path / "none", check=False)
    assert list(tmp_path.glob("none*")) == []
