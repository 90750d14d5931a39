"""The database in a study's folder: read while it is written, locked, on a full disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from simulated_search import FACTS, SEARCH, search_on, told

from search.config.config import StudyConfig
from search.explain.verify import verify
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.record import storage
from search.record.lock import hold
from search.record.storage import close_storage, engine_of
from search.record.study import StorageError, Study, StudyError, create, open_study
from search.record.whole_file import write_json
from search.report.report import write_report
from search.screen.result import summarise

MakeConfig = Callable[..., StudyConfig]
Begin = Callable[[Path], Study]
WRITER = """
import sys
from pathlib import Path

import optuna

from model.train import EpochMetrics
from search.propose.ledger import Ledger
from search.record.lock import hold
from search.record.study import open_study

study = open_study(Path(sys.argv[1]))
with hold(study):
    session = study.sessions.start("search", host="here", pid=1)
    ledger = Ledger(study.optuna)
    print("begun", flush=True)
    for trial in range(20):
        if trial in (5, 10, 15):
            sys.stdin.readline()  # however slow the machine, a reader has read once more by now
        template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
        template.number = trial
        ledger.add(template)
        study.record.add_event("proposed", trial)
        attempt = study.record.start_attempt(trial, from_epoch=0)
        for epoch in range(1, 21):
            metrics = EpochMetrics(
                epoch=epoch, train_loss=0.5, train_accuracy=0.8, val_loss=0.6, val_accuracy=0.5,
                learning_rate=0.1, images_per_second=1000.0, seconds=1.5,
            )
            study.record.add_epoch(trial, attempt, metrics, 0.5)
            ledger.report(trial, epoch, 0.5)
        study.record.end_attempt(trial, attempt, outcome="complete", reason="all")
    study.sessions.end(session)
"""


@pytest.fixture
def begin(make_config: MakeConfig) -> Begin:
    """Return a function that makes a study in a folder."""

    def make(folder: Path) -> Study:
        environment = describe_environment(CHECKOUT)
        return create(make_config(**SEARCH), folder, facts=FACTS, environment=environment)

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Any:
    """Return what the search tells where nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "small"
    environment = describe_environment(CHECKOUT)
    config = make_config(**SEARCH)
    return told(search_on(create(config, folder, facts=FACTS, environment=environment)))


def _check(folder: Path) -> None:
    with sqlite3.connect(folder / "study.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


@pytest.mark.timeout(300)
def test_readers_and_the_writer_do_not_disturb_each_other(begin: Begin, tmp_path: Path) -> None:
    folder = begin(tmp_path / "small").folder
    path = folder / "study.db"
    command = [sys.executable, "-c", WRITER, str(folder)]
    reader = sqlite3.connect(path, isolation_level=None)
    reads, known = 0, []
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        try:
            assert writer.stdin is not None and writer.stdout is not None
            assert writer.stdout.readline() == "begun\n"
            reader.execute("BEGIN")  # and reads on in what was there then
            (before,) = reader.execute("SELECT count(*) FROM fs_event").fetchone()
            while writer.poll() is None:
                known.append(summarise(open_study(folder))["budget"]["trial_epochs"])
                plain = optuna.load_study(study_name="small", storage=f"sqlite:///{path}")
                assert all(0 <= len(t.intermediate_values) <= 20 for t in plain.trials)
                if reads == 0:
                    write_report(open_study(folder))
                (same,) = reader.execute("SELECT count(*) FROM fs_event").fetchone()
                assert same == before
                reads += 1
                if reads <= 3:
                    writer.stdin.write("\n")
                    writer.stdin.flush()
            _, errors = writer.communicate()
        finally:
            writer.kill()
    assert (writer.returncode, errors) == (0, "")
    assert reads >= 3 and known == sorted(known) and 0 < known[-1] <= 400
    reader.execute("COMMIT")
    reader.close()
    study = open_study(folder)
    assert len(study.record.epochs()) == 400
    assert [len(t.intermediate_values) for t in study.optuna.get_trials()] == [20] * 20
    log = Path(f"{path}-wal")
    assert log.stat().st_size > 1 << 20  # the reader had needed it
    with hold(study):
        study.record.add_event("proposed", 20)
    assert not log.exists() or log.stat().st_size == 0
    _check(folder)


def test_the_log_is_emptied_at_the_end_also_where_a_reader_stays(
    begin: Begin, tmp_path: Path
) -> None:
    study = begin(tmp_path / "small")
    other = open_study(study.folder)
    log = study.folder / "study.db-wal"
    with hold(study):
        study.record.add_event("proposed", 0)
        assert len(other.record.events()) == 1
        assert log.stat().st_size > 0
    assert log.stat().st_size == 0
    study.record.add_event("proposed", 1)  # what was closed can be used again
    assert len(other.record.events()) == 2


def test_a_lock_by_another_program_is_told_in_one_line_and_the_search_goes_on_later(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.1)
    folder = begin(tmp_path / "small").folder
    other = sqlite3.connect(folder / "study.db", isolation_level=None)
    message = (
        r"study\.db is locked by another program that writes to it: stop that, then `resume sm"
    )
    for epochs in (1, 7, 12):
        study = search_on(open_study(folder), epochs=epochs)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=message):
            search_on(study)
        with pytest.raises(StorageError, match=message):
            study.sessions.see()
        assert summarise(open_study(folder))["study"] == "small"  # reading goes on
        other.execute("ROLLBACK")
    other.close()
    assert told(search_on(open_study(folder))) == undisturbed
    assert verify(open_study(folder)).difference is None


@pytest.mark.parametrize("left", [0, 4, 9, 12, 20, 33])
def test_a_full_disk_is_told_in_one_line_and_the_search_goes_on_later(
    begin: Begin, small_disk: Callable[[int], Path], undisturbed: Any, left: int
) -> None:
    disk = small_disk(4 << 20)
    study = begin(disk / "small")
    folder = study.folder
    with hold(study):
        search_on(study, epochs=5)
    assert not list(folder.glob("study.db-*"))
    ballast = disk / "ballast"
    _fill(ballast, pages_left=left)
    # With less than 8 pages it cannot be opened.
    remedy = "and try again" if left < 8 else "then `resume small`"
    message = f"^the disk of /.*/small is full: free some space, {remedy}$"
    with pytest.raises(StorageError, match=message):
        search_on(open_study(folder))
    ballast.unlink()
    _check(folder)
    assert told(search_on(open_study(folder))) == undisturbed
    assert verify(open_study(folder)).difference is None


def _fill(path: Path, pages_left: int) -> None:
    """Take all of a disk but a few pages of 4 KiB."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(os.fstat(file.fileno()).st_size - 4096 * pages_left)


def test_a_study_that_finds_no_room_leaves_nothing(
    begin: Begin, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(128 << 10)  # its database needs more
    with pytest.raises(StorageError, match=r"small is full: free some space, and try again$"):
        begin(disk / "small")
    assert list(disk.iterdir()) == []
    (disk / "ballast").write_bytes(bytes(128 << 10))
    with pytest.raises(StudyError, match=r"small is full: free some space, and try again"):
        begin(disk / "small")
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_file_that_finds_no_room_stays_as_it_was(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(64 << 10)
    path = disk / "result.json"
    write_json(path, {"old": 1})
    with pytest.raises(StudyError, match=r"is full: result\.json is not written; free some space"):
        write_json(path, {"new": "x" * (128 << 10)})
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(disk.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a b", "100%41", "what?x=1", "a#b", "{x}", "ä", "it's"])
def test_the_folder_of_the_studies_may_have_any_name(
    begin: Begin, tmp_path: Path, name: str
) -> None:
    study = begin(tmp_path / name / "small")
    study.record.add_event("proposed", 0)
    assert len(open_study(study.folder).record.events()) == 1
    assert (study.folder / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["empty", "of another program", "of Optuna", "without our tables"])
def test_a_database_that_holds_no_whole_record_is_refused(
    begin: Begin, tmp_path: Path, kind: str
) -> None:
    study = begin(tmp_path / "small")
    close_storage(engine_of(study.optuna))
    path, message = study.folder / "study.db", "cannot be read: no such table"
    if kind != "without our tables":
        path.unlink()
        path.touch()
    with sqlite3.connect(path) as database:
        if kind == "of another program":
            database.execute("CREATE TABLE studies (name TEXT)")
        if kind == "without our tables":
            database.execute("DROP TABLE fs_event")
    database.close()
    if kind == "of Optuna":
        plain = optuna.create_study(storage=f"sqlite:///{path}")
        plain.set_user_attr("format", "3")
        message = "small was not made to its end; remove the folder and begin again"
    with pytest.raises(StudyError, match=message):
        open_study(study.folder)
