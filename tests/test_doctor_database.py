"""A database that is damaged is named, with what of it can still be read."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from postgres_server import running_server
from sick_study import content, copied, goes_on_as_if_nothing_had_been, killed, kinds, said
from simulated_search import SEARCH

from search.care.doctor import examine
from search.care.doctor_database import wrong_journal
from search.config.config import StudyConfig
from search.record.study import open_study

pytestmark = pytest.mark.usefixtures("elsewhere")


def change(folder: Path, *statements: str) -> None:
    """Run SQL on the database of a study."""
    database = sqlite3.connect(folder / "study.db", isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


def page_of(folder: Path, table: str) -> int:
    """Return where in the file the first page of a table is."""
    database = sqlite3.connect(folder / "study.db")
    query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    ((page,),) = database.execute(query, (table,)).fetchall()
    ((size,),) = database.execute("PRAGMA page_size").fetchall()
    database.close()
    return int((page - 1) * size)


def overwrite(path: Path, at: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)


def damaged_header(folder: Path) -> None:
    overwrite(folder / "study.db", 0, b"no database     ")


def damaged_page(folder: Path) -> None:
    overwrite(folder / "study.db", page_of(folder, "fs_attempt"), b"\xff" * 100)


def damaged_events(folder: Path) -> None:
    overwrite(folder / "study.db", page_of(folder, "fs_event"), b"\xff" * 100)


def damaged_free_list(folder: Path) -> None:
    # Nothing is kept there, and all that is kept can be read.
    database = sqlite3.connect(folder / "study.db", isolation_level=None)
    database.execute("CREATE TABLE gone AS SELECT zeroblob(20000) AS room")
    database.execute("DROP TABLE gone")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    overwrite(folder / "study.db", 36, (1).to_bytes(4, "big"))


def newer_format(folder: Path) -> None:
    change(folder, "UPDATE study_user_attributes SET value_json = '9' WHERE key = 'format'")


def no_looks(folder: Path) -> None:
    change(folder, "DROP TABLE fs_look", "DROP TABLE fs_decision")


def broken_extension(folder: Path) -> None:
    insert = "INSERT INTO fs_event (study, kind, trial, reason, at) VALUES (1, 'extended', -1, "
    change(folder, f"{insert}'{{\"budget\": {{}}}}', 0)")


def broken_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("study: [")


INCURABLE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "its header": (
        damaged_header,
        r"study.db cannot be read: file is not a database; put a copy back if there is one$",
        r"^nothing of it can be read$",
    ),
    "a page": (
        damaged_page,
        r"^study.db is damaged: database disk image is malformed$",
        r"^put a copy of it back; 1 of its \d+ tables cannot be read: fs_attempt$",
    ),
    "the events": (
        damaged_events,
        r"study.db cannot be read: database disk image is malformed; put a copy back",
        r"^1 of its \d+ tables cannot be read: fs_event$",
    ),
    "its free pages": (
        damaged_free_list,
        r"^study.db is damaged: .*[Ff]reelist",
        r"all its \d+ tables can still be read to the end: sqlite3 study.db .recover \| sqlite3 c",
    ),
    "its format": (newer_format, r"newer version \(format 9, .+\); update fashion-search$", r"^$"),
    "tables": (
        no_looks,
        r"^the database has no table fs_decision, fs_look$",
        r"^put a copy of the database back, or begin the study again$",
    ),
    "an extension": (
        broken_extension,
        r"^the record cannot be read \(KeyError: 'again'\)$",
        r"^put a copy of the database back",
    ),
    "no database": (
        lambda folder: (folder / "study.db").unlink(),
        r"^study.db is gone$",
        r"^put a copy of the database back",
    ),
    "no settings": (
        lambda folder: (folder / "config.yaml").unlink(),
        r"^config.yaml is gone$",
        r"^put a copy back: nothing else holds all settings of the study$",
    ),
    "broken settings": (broken_config, r"config.yaml:1: .+", r"^$"),
}


@pytest.mark.parametrize("what", INCURABLE)
def test_what_cannot_be_mended_is_named_and_left(
    what: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    damage, wrong, how = INCURABLE[what]
    folder = copied(patients["stopped"], tmp_path / "sick")
    damage(folder)
    before = content(folder)
    for check in (True, False):
        found = examine(folder, check=check)
        (finding,) = found.findings
        assert re.search(wrong, finding.what), finding
        assert re.search(how, finding.how), finding
        assert (finding.outcome, found.is_well) == ("cannot be mended", False)
        assert "the rest was not looked at: " in str(found)
        assert "\n" not in finding.what
        after = content(folder)
        assert {n: h for n, h in after.items() if n in before} == before


def test_a_broken_index_is_made_again(patients: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(patients["stopped"], tmp_path / "sick")
    index = "SELECT sql FROM sqlite_master WHERE name = 'ix_fs_event_study'"
    database = sqlite3.connect(folder / "study.db", isolation_level=None)
    ((sql,),) = database.execute(index).fetchall()
    # As if a write had reached the table and not its index.
    hidden = "UPDATE sqlite_master SET sql = ? WHERE name = 'ix_fs_event_study'"
    database.execute("PRAGMA writable_schema = ON")
    database.execute(hidden, (f"{sql} WHERE study > 1",))
    database.close()
    change(folder, "DELETE FROM fs_event WHERE id = 1", "REINDEX")
    database = sqlite3.connect(folder / "study.db", isolation_level=None)
    database.execute("PRAGMA writable_schema = ON")
    database.execute(hidden, (sql,))
    database.close()
    seen = examine(folder, check=True)
    assert re.search(r"study.db is damaged: .*index ix_fs_event_study", said(seen))
    assert kinds(seen) == {"can be mended"}
    assert "cannot be trusted" in seen.incomplete
    mended = examine(folder, check=False)
    assert mended.findings[0].outcome == "mended"
    assert mended.findings[0].how == "its indices are made again"
    # And then the rest is looked at.
    assert "has event 2 (" in mended.findings[1].what
    assert "study.db is damaged" not in said(examine(folder, check=True))


def test_a_journal_in_another_mode_is_set_right(patients: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(patients["stopped"], tmp_path / "sick")
    change(folder, "PRAGMA journal_mode = delete")
    before = content(folder)
    seen = examine(folder, check=True)
    assert content(folder) == before
    assert said(seen) == "study.db keeps its journal in the mode delete"
    assert (kinds(seen), seen.is_well) == ({"can be mended"}, False)
    assert "to open the study would mend that" in str(seen)
    mended = examine(folder, check=False)
    assert (said(mended), kinds(mended)) == (said(seen), {"mended"})
    assert wrong_journal(folder) == ""
    assert examine(folder, check=True).findings == ()
    assert len(open_study(folder).trials()) == 13


@pytest.mark.timeout(240)
def test_a_record_on_a_server_is_mended_as_one_in_a_file(
    make_config: Callable[..., StudyConfig], patients: dict[str, Path], tmp_path: Path
) -> None:
    with running_server() as server:
        server.sql("CREATE DATABASE studies")
        config = make_config(storage=server.url("studies"), **SEARCH)
        folder = killed(tmp_path / "killed", config).folder
        assert (folder / "study.id").exists()
        seen = examine(folder, check=True)
        in_file = examine(patients["killed"], check=True)
        one, other = (re.sub(r"process \d+", "", said(found)) for found in (seen, in_file))
        assert one == other != ""
        assert kinds(examine(folder, check=False)) == {"mended"}
        assert examine(folder, check=False).findings == ()
        goes_on_as_if_nothing_had_been(folder, patients["finished"])
        server.sql("DROP TABLE fs_look", "studies")
        assert said(examine(folder, check=False)) == "the database has no table fs_look"
