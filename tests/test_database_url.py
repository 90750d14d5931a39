"""Which databases a study file may name, and a folder that contradicts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.config.config_file import ConfigError, load_config
from search.config.database_url import check_url
from search.machine.slots import CHECKOUT
from search.record.study import Study, StudyError, open_study

MakeStudy = Callable[..., Study]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db.example.org/studies",
        "postgresql://ann@db:5433/studies?sslmode=require",
        "postgresql://ann@[::1]:5433/studies",
        "postgresql:///studies?host=/run/postgresql",
        "postgresql://db/with-dash",
    ],
)
def test_a_postgresql_database_may_be_named(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///study.db", "is of no database known here; it must be postgresql://[USER@]HOST"),
        ("mysql://ann@db/studies", "'mysql://ann@db/studies' is of no database known here"),
        ("postgres://db/studies", "is of no database known here"),
        ("postgresql+psycopg2://db/studies", "is of no database known here"),
        ("db.example.org", "is of no database known here"),
        ("", "'' is of no database known here"),
        ("postgresql://db", "names no database; it must be"),
        ("postgresql://db/", "names no database"),
        ("postgresql://db/a/b", "names no database"),
        ("postgresql://db:port/studies", "is no address of a database (Port could not be cast"),
        ("postgresql://[::1/studies", "is no address of a database (Invalid IPv6 URL)"),
    ],
)
def test_another_one_is_refused_with_what_is_allowed(url: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_url(url)
    assert message in str(refused.value)
    assert str(refused.value).endswith("or null for a file in the study's folder")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@db/studies",
        "postgresql://:s3cret@db/studies",
        "postgresql://db/studies?user=ann&password=s3cret&sslmode=require",
        "mysql://ann:s3cret@db/studies",
        "postgresql://ann:s3cret@db:x/studies",
    ],
)
def test_a_password_is_neither_kept_nor_shown(tmp_path: Path, url: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"study: mine\nstorage: {url}\nspace: {{}}\nbudget: {{trials: 1}}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert f"{path}:2: storage: " in str(refused.value)
    assert "s3cret" not in str(refused.value)
    if "postgresql" in url and "db:x" not in url:
        assert "PGPASSWORD or write it into ~/.pgpass" in str(refused.value)


def test_a_folder_with_a_record_of_its_own_is_not_that_of_a_server(make_study: MakeStudy) -> None:
    path = make_study().folder / "config.yaml"
    text = path.read_text()
    assert "storage: null" in text
    path.write_text(text.replace("storage: null", "storage: postgresql://db/studies"))
    message = r"config\.yaml says storage: postgresql://db/studies, but the record is .*study\.db"
    with pytest.raises(StudyError, match=message):
        open_study(path.parent)


def test_a_missing_driver_is_told_in_one_line(make_study: MakeStudy) -> None:
    folder = make_study().folder
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("storage: null", "storage: postgresql://db/studies"))
    (folder / "study.db").rename(folder / "study.id")
    (folder / "study.id").write_text("small-0a1b2c3d\n")
    script = (
        "import sys; sys.modules['psycopg'] = None; sys.argv = ['search', *sys.argv[1:]];"
        " from search.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "status", f"{folder}/"]
    answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    expected = 'error: postgresql://db/studies needs a driver: pip install "psycopg[binary]"\n'
    assert (answer.returncode, answer.stderr) == (2, expected)
