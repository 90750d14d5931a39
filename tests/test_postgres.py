"""Studies on a PostgreSQL server (a real one): as in their own file, and many in one database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from postgres_server import Server, running_server
from simulated_search import FACTS, SEARCH, search_on, told

from search.config.config import StudyConfig
from search.explain.verify import verify
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.record.lock import hold, is_alive
from search.record.study import StorageError, Study, StudyError, create, open_study

pytestmark = pytest.mark.timeout(240)

Make = Callable[..., Any]
SETTINGS = (
    "max_epochs=2",
    "budget={trials: 4}",
    "points=[]",
    "baselines=[]",
    "data.synthetic_train=600",
    "data.synthetic_test=200",
    "data.validation_images=100",
    "space={filters: {choice: [4, 6], per_block: true}, num_blocks: 1,"
    " learning_rate: {float: [0.01, 0.3], log: true}, batch_size: 64}",
    "asha={form: stopping, grace_epochs: 1}",
    "final={finalists: 0, seeds: 1, baseline_seeds: 0, export: false}",
    "resources.max_concurrent=2",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server that runs."""
    with running_server() as running:
        yield running


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """Return the address of an empty database."""
    server.sql("CREATE DATABASE studies")
    yield server.url("studies")
    server.sql("DROP DATABASE studies WITH (FORCE)")


@pytest.fixture
def begin(tmp_path: Path, make_config: Callable[..., StudyConfig]) -> Callable[..., Study]:
    """Return a function that makes a study in a folder, with its record at an address."""

    def make(folder: str, storage: str | None) -> Study:
        environment = describe_environment(CHECKOUT)
        config = make_config(storage=storage, **SEARCH)
        return create(config, tmp_path / folder, facts=FACTS, environment=environment)

    return make


def test_a_search_on_a_server_is_that_in_a_file_also_beside_another_of_its_name(
    begin: Make, database: str
) -> None:
    expected = told(search_on(begin("file/mine", None)))
    assert len(expected[0]) == 14
    first, second = begin("a/mine", database), begin("b/mine", database)
    assert not (first.folder / "study.db").exists()
    assert first.name == second.name == "mine"
    search_on(first, epochs=20)
    search_on(second)
    # A driver that is gone: the next one goes on from what is there.
    first, second = search_on(open_study(first.folder)), open_study(second.folder)
    assert told(second) == expected
    assert told(first) == expected
    for study in (first, second):
        assert verify(study).difference is None
        assert verify(study).proposals == 14
    # Both open as they are with plain Optuna.
    names = [(study.folder / "study.id").read_text().strip() for study in (first, second)]
    plain = optuna.storages.RDBStorage(database.replace("postgresql:", "postgresql+psycopg:"))
    assert sorted(optuna.get_all_study_names(plain)) == sorted(names)
    plain.engine.dispose()
    assert len(set(names)) == 2 and all(name.startswith("mine-") for name in names)


def test_looks_sessions_and_attempts_of_two_studies_are_apart(begin: Make, database: str) -> None:
    first, second = begin("a/mine", database), begin("b/mine", database)
    first.record.add_look(reason="first", models="{}", broke_seal=False)
    first.sessions.start("search", host="here", pid=1)
    second.sessions.start("retrain", host="there", pid=2)
    assert [look["reason"] for look in first.record.looks()] == ["first"]
    assert second.record.looks() == []
    assert [s["host"] for s in first.sessions.all()] == ["here"]
    assert [s["host"] for s in second.sessions.all()] == ["there"]
    assert [s.record.start_attempt(0, from_epoch=0) for s in (first, second)] == [1, 1]
    first.record.end_attempt(0, 1, outcome="failed", reason="why", failure="bug")
    assert [row["outcome"] for row in second.record.attempts()] == [None]
    assert (len(first.record.failures(0)), second.record.failures(0)) == (1, [])
    assert first.record.start_attempt(0, from_epoch=0) == 2
    second.record.close_attempts("the driver ended before it")
    assert [row["outcome"] for row in first.record.attempts()] == ["failed", None]


HOLDER = """
import sys, time, os
from pathlib import Path
from search.record.lock import hold
from search.record.study import open_study

study = open_study(Path(sys.argv[1]))
with hold(study):
    session = study.sessions.start("search", host="elsewhere", pid=os.getpid())
    study.record.start_attempt(0, from_epoch=0)
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_host_is_told_who_holds_a_study_until_that_process_is_gone(
    begin: Make, database: str, tmp_path: Path
) -> None:
    study = begin("here/mine", database)
    other = tmp_path / "there" / "mine"  # as another machine has it: with a lock file of its own
    shutil.copytree(study.folder, other)
    assert not is_alive(study)
    command = [sys.executable, "-c", HOLDER, str(other)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            who = rf"mine is being worked on by process {holder.pid} on elsewhere since 20\d\d-"
            with pytest.raises(StudyError, match=who), hold(study):
                pass
            assert is_alive(study)
        finally:
            holder.kill()
    for _ in range(100):  # the server has to notice
        if not is_alive(study):
            break
        time.sleep(0.1)
    with hold(study):
        study.sessions.start("search", host="here", pid=1)
        assert is_alive(open_study(study.folder))
        study.record.close_attempts("the driver ended before it")
    assert [row["outcome"] for row in study.record.attempts()] == ["stopped"]


def test_a_server_that_goes_away_ends_the_search_in_one_line_and_it_goes_on_later(
    begin: Make, server: Server, database: str
) -> None:
    expected = told(search_on(begin("file", None)))
    study = begin("mine", database)
    gone = r"/studies cannot be reached: .*, then `resume mine`$"
    with pytest.raises(StorageError, match=gone), hold(study):
        search_on(study, epochs=20)
        server.stop()
        try:
            search_on(study)
        finally:
            server.start()
    # The lock went with the connection: this driver must not write again.
    with pytest.raises(StorageError, match="then `resume mine`"):
        study.record.events()
    study = open_study(study.folder)
    with hold(study):
        assert told(search_on(study)) == expected
    assert verify(open_study(study.folder)).difference is None


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"database": "none"}, 'cannot be opened: database "none" does not exist; make it on the'),
        ({"user": "nobody"}, 'cannot be opened: role "nobody" does not exist; make it on the'),
        ({"user": "weak"}, "cannot be opened: fe_sendauth: no password supplied; give the right"),
        (
            {"user": "weak", "password": "x"},
            "password authentication failed .*; give the right one",
        ),
        ({"user": "stranger"}, "pg_hba.conf rejects connection .*; let the user in there"),
        ({"user": "weak", "password": "right"}, "cannot be written: permission denied for schema"),
        ({"port": 1}, "cannot be reached: Connection refused; see to the server, and try again"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_one_line_and_leaves_no_folder(
    begin: Make,
    server: Server,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: dict[str, Any],
    message: str,
) -> None:
    if password := place.get("password"):
        monkeypatch.setenv("PGPASSWORD", password)
    url = server.url(place.get("database", "studies"), place.get("user", "postgres"))
    url = url.replace(str(server.port), str(place.get("port", server.port)))
    with pytest.raises(StorageError, match=f"^{url} .*{message}") as refused:
        begin("mine", url)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "mine").exists()
    os.environ.pop("PGPASSWORD", None)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_commands_work_as_on_a_file(database: str, tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "search", *words, "--runs", str(tmp_path)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )

    settings = [part for value in (*SETTINGS, f"storage={database}") for part in ("--set", value)]
    preset = ("--preset", "quickstart", "--data", "synthetic", "--name", "mine", "--json")
    done = command("run", *preset, *settings)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["trials"]["total"]) == ("finished", 4)
    assert not list(tmp_path.rglob("study.db*"))
    (status,) = json.loads(command("status", "--json").stdout)
    assert (status["study"], status["state"], status["alive"]) == ("mine", "finished", False)
    assert status["best"]["trial"] == result["best"]["trial"]
    verified = command("verify", "mine")
    assert (verified.returncode, "all the same" in verified.stdout) == (0, True), verified.stderr
    told = command("resume", "mine", "--json")
    assert json.loads(told.stdout)["best"] == result["best"]
