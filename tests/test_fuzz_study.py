"""Study folders that were cut, flipped, mixed up or half removed: read whole, or one line."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzzing import LIMIT, Tally, damaged, fuzz
from hypothesis import strategies as st
from rich.console import Console
from sick_study import copied, finished

from search.config.config import StudyConfig
from search.record.final_metrics import read_metrics, write_metrics
from search.record.stop import take_request
from search.record.storage import engine_of
from search.record.study import StorageError, StudyError, open_study
from search.report.facts import gather
from search.screen.result import build_result, summarise
from search.screen.status import status_table, studies_table

pytestmark = [LIMIT, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., StudyConfig]
) -> Path:
    """Return a finished study, its database closed."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    config = make_config(budget={"trials": 8}, baselines=["seed-32"], max_epochs=4)
    study = finished(folder, config)
    metrics = read_metrics(folder / "final")
    for row in metrics["models"]:
        row |= {"epochs": 4, "train_accuracy": 0.9, "seed": 1, "test": None}
    write_metrics(folder / "final", metrics)
    engine = engine_of(study.optuna)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return folder


def read_all(folder: Path) -> bool:
    """Read a study as `status`, `report` and `resume` do."""
    study = open_study(folder)
    try:
        summarise(study)
        build_result(study)
        gather(study)
        Console(file=io.StringIO()).print(status_table(study))
        return True
    finally:
        engine_of(study.optuna).dispose()


def check_alone(tally: Tally, folder: Path) -> None:
    """Read one study, then list it among others: one bad study must not hide them."""
    read = tally.answer(lambda: read_all(folder))
    text = io.StringIO()
    Console(file=text, width=200).print(studies_table([folder]))
    assert read or folder.name in text.getvalue()


def cells_of(database: Path) -> list[tuple[str, str, int]]:
    """Return every cell of a database: table, column, row."""
    with sqlite3.connect(database) as connection:
        tables = [
            n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        return [
            (table, column, row)
            for table in tables
            for (_, column, *_rest) in connection.execute(f"PRAGMA table_info({table})").fetchall()
            for (row,) in connection.execute(f"SELECT rowid FROM {table} LIMIT 3").fetchall()
        ]


_TEXTS = ["", "x", "{}", "[]", "null", "1e999", '"\\ud800"', "[" * 9_000, "9" * 9_000, "\x1b[2J\n"]
_VALUES = [None, -1, 2**62, 1.5, float("inf"), b"\xff\0", "é\u2028", *_TEXTS]


def test_a_damaged_database_is_read_whole_or_refused_in_one_line(
    whole: Path, tmp_path: Path
) -> None:
    content = (whole / "study.db").read_bytes()
    cells = cells_of(whole / "study.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE moz_places (id INTEGER)")
    other.commit()
    others = [(tmp_path / "other.db").read_bytes(), b"", b"SQLite format 3\0", b"\0" * 4096]
    place = tmp_path / "study"
    shutil.copytree(whole, place)

    def check(tally: Tally, draw: Any) -> None:
        way = draw(st.sampled_from(["bytes", "pages", "cell", "cell", "cut", "log", "other"]))
        stored = content
        for name in ("study.db", "study.db-wal", "study.db-shm"):
            (place / name).unlink(missing_ok=True)  # a new file: nobody has it open
        if way == "bytes":
            stored = draw(damaged(content, (100, 4096), most=20))
        elif way == "pages":  # a page that never reached the disk, or another page in its place
            at, source = (4096 * draw(st.integers(0, len(content) // 4096 - 1)) for _ in range(2))
            page = draw(st.sampled_from([bytes(4096), content[source : source + 4096]]))
            stored = content[:at] + page + content[at + 4096 :]
        elif way == "cut":
            stored = content[: draw(st.integers(0, len(content)))]
        elif way == "other":
            stored = draw(st.sampled_from(others))
        elif way == "log":
            (place / "study.db-wal").write_bytes(
                draw(st.sampled_from([b"", b"\x37\x7f\x06\x82" + bytes(60), content[:8192]]))
            )
        (place / "study.db").write_bytes(stored)
        if way == "cell":
            table, column, row = draw(st.sampled_from(cells))
            with sqlite3.connect(place / "study.db") as connection:
                connection.execute("PRAGMA ignore_check_constraints=ON")
                change = f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?"
                with suppress(sqlite3.IntegrityError):  # the database itself refuses it
                    connection.execute(change, (draw(st.sampled_from(_VALUES)), row))
            connection.close()
        check_alone(tally, place)

    fuzz("study.db", StudyError, check)


def test_the_database_of_another_program_is_left_as_it_is(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "study"
    shutil.copytree(whole, place)
    (place / "study.db").unlink()
    with sqlite3.connect(place / "study.db") as connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER)")
    connection.close()
    before = (place / "study.db").read_bytes()
    with pytest.raises(StorageError, match="not made to its end, or by another program"):
        open_study(place)
    assert (place / "study.db").read_bytes() == before


_ODD_CELLS = {
    "UPDATE fs_epoch SET val_accuracy = x'ff00' WHERE trial = 1": "val_accuracy of type bytes",
    "UPDATE fs_session SET started_at = 'soon'": "started_at of type str",
    "UPDATE trials SET number = -1 WHERE number = 0": "trial 0 has the number -1",
    "UPDATE trial_user_attributes SET value_json = '-1' WHERE key = 'origin'": "origin of trial",
    "UPDATE trial_user_attributes SET value_json = '{\"a\"' WHERE key = 'origin'": "delimiter",
    "UPDATE trial_user_attributes SET value_json = replace(value_json, 'dropout', 'drapout')"
    " WHERE key = 'configuration'": "no setting 'block_drapouts'",
    "UPDATE trials SET state = 'PRU ED'": "not among the defined enum values",
    "UPDATE study_user_attributes SET value_json = '\"lost\"' WHERE key = 'state'": "'lost'",
}


@pytest.mark.parametrize("statement", _ODD_CELLS, ids=lambda text: text[7:40])
def test_a_value_that_was_never_written_is_told_as_damage(
    whole: Path, tmp_path: Path, statement: str
) -> None:
    place = copied(whole, tmp_path / "study", statement)
    with pytest.raises(StorageError, match="holds what was never written") as caught:
        read_all(place)
    assert _ODD_CELLS[statement] in str(caught.value)
    assert "`doctor study`" in str(caught.value)


@pytest.mark.parametrize("change", ["trial = -1", "value = NULL"])
def test_a_decision_of_no_trial_or_without_a_value_hides_no_other(
    whole: Path, tmp_path: Path, change: str
) -> None:
    statement = f"UPDATE fs_decision SET {change} WHERE id = 1"
    assert read_all(copied(whole, tmp_path / "study", statement))


def test_a_request_to_stop_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".stop")
    assert take_request(tmp_path) == ""
    (tmp_path / ".stop").unlink()
    (tmp_path / ".stop").write_text("now\n")
    assert take_request(tmp_path) == "now"


_FILES = [
    "config.yaml", "study.db", "study.id", ".lock", ".stop", "trials", "final", "export",
    "final/metrics.json", "final/winner-s0/model.safetensors", "final/winner-s0/worst.npz",
    "result.json", "report.html", "trials/t0001",
]  # fmt: skip


def test_a_folder_with_anything_missing_or_mixed_up_is_read_or_refused(
    whole: Path, tmp_path: Path
) -> None:
    place = tmp_path / "study"

    def spoil(path: Path, way: str, draw: Any) -> None:
        old = path.read_bytes() if path.is_file() else b"{}"
        if way == "damaged" and path.is_file():
            path.write_bytes(draw(damaged(old, (200,))))
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if way == "empty":
            path.touch()
        elif way == "folder":
            path.mkdir()
        elif way == "pipe":
            os.mkfifo(path)
        elif way == "loop":
            path.symlink_to(path)
        elif way == "words":
            path.write_bytes(draw(st.sampled_from([b"{}", b"[]", b"[" * 9_000, b"\xff", b"x: 1"])))

    ways = ["gone", "damaged", "damaged", "empty", "folder", "pipe", "loop", "words"]

    def check(tally: Tally, draw: Any) -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(_FILES))
            try:
                spoil(place / name, draw(st.sampled_from(ways)), draw)
            except (FileExistsError, NotADirectoryError):  # its folder was spoilt before
                continue
        check_alone(tally, place)

    fuzz("study folders", StudyError, check)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda text: text.replace("0.9", "0.8"), "its SHA-256 does not match"),
        (lambda text: text[:-20], "is not what was written"),
        (lambda text: "[" * 100_000, "is not what was written"),
        (lambda text: "[]", "is not what was written"),
        (lambda text: "{}", "its SHA-256 does not match"),
    ],
)
def test_what_is_known_of_the_final_models_is_not_taken_from_a_changed_file(
    whole: Path, tmp_path: Path, changed: Callable[[str], str], said: str
) -> None:
    shutil.copytree(whole, tmp_path / "study")
    path = tmp_path / "study" / "final" / "metrics.json"
    path.write_text(changed(path.read_text()))
    with pytest.raises(StudyError, match=said) as caught:
        read_all(tmp_path / "study")
    assert "`retrain study`" in str(caught.value)
