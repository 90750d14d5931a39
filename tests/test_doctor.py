"""`doctor` names what is wrong with a study's record, mends it, and leaves all else alone."""

from __future__ import annotations

import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from patients import begin, content, copied
from simulated_search import SEARCH, search_on, told
from typer.testing import CliRunner

from search.cli import app
from search.config import StudyConfig
from search.doctor import examine
from search.record import Record
from search.study import open_study
from search.verify import verify

pytest_plugins = ["patients"]
pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("temporary")]


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
    patients: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(patients["killed"], folder)  # with the log that the killed driver left
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


class Killed(BaseException):
    """Stands for the end of the driver's process."""


@pytest.mark.parametrize("chance", range(4))
def test_a_driver_may_die_at_any_write(
    chance: int,
    patients: dict[str, Path],
    make_config: Callable[..., StudyConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [math.inf]

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return write(*args, **kwargs)

        return call

    storage = optuna.storages.RDBStorage
    for owner, names in (
        (Record, ("add_epoch", "add_event", "start_attempt", "end_attempt")),
        (storage, ("_create_new_trial", "set_trial_intermediate_value")),
        (storage, ("set_trial_state_values", "set_trial_user_attr")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    folder, moments = begin(tmp_path / "small", make_config(**SEARCH)).folder, random.Random(chance)
    deaths, wrong = 0, ""
    while True:
        left[0] = moments.randrange(5, 40)
        try:
            search_on(open_study(folder))
            break
        except Killed:
            deaths += 1
        finally:
            left[0] = math.inf
        found = examine(folder, check=False)
        wrong += said(found)
        assert kinds(found) <= {"mended"}, str(found)
        assert examine(folder, check=False).findings == ()
    assert deaths > 5 and "has no end" in wrong
    goes_on_as_if_nothing_had_been(folder, patients["finished"])
