"""`verify`: what a record holds follows from it, and what was changed in it is found."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Kill, Killed
from typer.testing import CliRunner

from data.images import ImageShape
from model.config import Configuration
from model.train import EpochMetrics
from search.cli import app
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.explain.verify import verify
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.prune.assignment import Assignment
from search.record.record import Record
from search.record.study import Study, StudyError, create, open_study
from search.seeds import derive_seed

MakeConfig = Callable[..., StudyConfig]
MakeEpoch = Callable[..., EpochMetrics]
DATA = {
    "name": "drawn",
    "classes": [f"class {n}" for n in range(10)],
    "channels": 1,
    "height": 28,
    "width": 28,
}
SEARCH: dict[str, Any] = {
    "baselines": ["seed-32", "seed-64"],  # the second one is over the limits
    "points": [{"num_blocks": 1, "learning_rate": 0.45}],  # one that diverges
    "sampler": {"startup_trials": 4},
    "budget": {"trials": 18},
    "limits": {"parameters": 200_000, "multiply_adds": 700_000},
}
KINDS: dict[str, dict[str, Any]] = {
    "stopping": {"asha": {"form": "stopping"}},
    "audited": {"asha": {"form": "stopping", "audit_share": 0.5}},
    "promotion": {"asha": {"form": "promotion"}},
    "promotion, audited": {"asha": {"form": "promotion", "audit_share": 0.3}},
    "brackets": {"asha": {"form": "promotion", "brackets": 2}},
    "growing": {"asha": {"form": "promotion", "grow": True}},
    "tpe": {"sampler": {"kind": "tpe", "startup_trials": 3}},
    "random": {"sampler": {"kind": "random"}, "asha": {"form": "stopping"}},
    "few epochs": {"budget": {"epochs": 40}},
}


class Workers:
    """Slots that train in no time and in an order of chance; some workers die, some trials fail."""

    def __init__(self, make_epoch: MakeEpoch, shape: ImageShape, slots: int = 3) -> None:
        self._make_epoch, self._shape, self._slots = make_epoch, shape, slots
        self._chance = random.Random(0)

    def work(self, study: Study) -> Iterator[Driver]:
        """Search until nothing more is handed out; give the driver before every step."""
        driver = Driver(study, shape=self._shape, slots=self._slots)
        busy: dict[int, tuple[Assignment, int]] = {}
        while True:
            while (assignment := driver.next()) is not None:
                busy[assignment.trial] = (assignment, assignment.from_epoch)
            if not busy:
                return
            yield driver
            trial = self._chance.choice(sorted(busy))
            assignment, done = busy.pop(trial)
            fate = self._chance.random()
            if fate < 0.03:
                driver.on_failure(
                    trial, Failure(kind="worker lost", reason="the worker process died")
                )
            elif fate < 0.06:
                driver.on_failure(
                    trial,
                    Failure(
                        kind="bug",
                        reason="ValueError: too small",
                        trace=f'  File "x.py", line {trial}, in f\nValueError: too small',
                    ),
                )
            else:
                # A dying worker has trained again what was recorded already, now and then.
                epoch = done if 0 < done < assignment.from_epoch + 2 and fate < 0.15 else done + 1
                if driver.on_epoch(trial, self._epoch(assignment, epoch)).action == "continue":
                    busy[trial] = (assignment, epoch)

    def finish(self, study: Study) -> Study:
        """Search to the end."""
        for _ in self.work(study):
            pass
        return study

    def _epoch(self, assignment: Assignment, epoch: int) -> EpochMetrics:
        configuration: Configuration = assignment.configuration
        rate = configuration.training.learning_rate
        luck = derive_seed(epoch, configuration.key()) / 2**31
        value = (0.9 - 0.1 * abs(math.log10(rate) + 1.3)) * (1 - 0.5**epoch) + 0.05 * luck
        diverged = {"train_loss": math.nan} if rate > 0.3 and epoch == 2 else {}
        return self._make_epoch(epoch, value, **diverged)


@pytest.fixture(scope="module")
def begin(make_config: MakeConfig) -> Callable[..., Study]:
    """Return a function that makes a study of a kind in a folder."""

    def make(folder: Path, kind: str = "stopping") -> Study:
        config = make_config(**(SEARCH | KINDS[kind]))
        environment = describe_environment(CHECKOUT)
        return create(config, folder, facts={"data": DATA}, environment=environment)

    return make


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory,
    begin: Callable[..., Study],
    make_epoch: MakeEpoch,
    shape: ImageShape,
) -> Callable[[str], Path]:
    """Return a function that gives the folder of a study that was searched, made once a kind."""
    made: dict[str, Path] = {}

    def search(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / re.sub(r"\W+", "-", kind)
            Workers(make_epoch, shape).finish(begin(made[kind], kind))
        return made[kind]

    return search


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_search_is_derived_again(kind: str, searched: Callable[[str], Path]) -> None:
    study = open_study(searched(kind))
    found = verify(study)
    assert found.difference is None, str(found)
    trials = study.trials()
    assert (found.proposals, found.ends) == (len(trials), len(trials))
    assert found.decisions == len(study.record.decisions()) > 10
    assert found.conditions == {}
    assert "all the same" in str(found)
    # It has all that could be derived wrongly.
    assert {"complete", "pruned", "infeasible"} <= {trial.outcome for trial in trials}
    actions = {row["action"] for row in study.record.decisions()}
    assert ("pause" in actions) == (study.config.asha.form == "promotion")
    assert ("audit" in actions) == ("audited" in kind)


def test_the_searches_had_failures_lost_workers_and_epochs_trained_twice(
    searched: Callable[[str], Path],
) -> None:
    studies = [open_study(searched(kind)) for kind in KINDS]
    assert any(trial.outcome == "failed" for study in studies for trial in study.trials())
    assert any(row["outcome"] == "lost" for study in studies for row in study.record.attempts())
    told = [
        (study.name, event.trial, event.epoch)
        for study in studies
        for event in study.record.events()
        if event.kind == "epoch"
    ]
    assert len(told) > len(set(told))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_a_search_that_was_killed_is_derived_again_at_each_of_its_deaths(
    kind: str,
    tmp_path: Path,
    begin: Callable[..., Study],
    make_epoch: MakeEpoch,
    shape: ImageShape,
    monkeypatch: pytest.MonkeyPatch,
    apart: bool,
) -> None:
    begin(tmp_path / "killed", kind)
    kill = Kill(monkeypatch, apart=apart)
    moments, deaths = random.Random(kind), 0
    while True:
        study = open_study(tmp_path / "killed")
        kill.left = moments.randrange(8, 25)
        try:
            Workers(make_epoch, shape).finish(study)
            break
        except Killed:
            deaths += 1
        finally:
            kill.left = math.inf
        if deaths % 4 == 0:
            found = verify(open_study(tmp_path / "killed"))
            assert found.difference is None, str(found)
    assert deaths >= 5
    found = verify(study)
    assert found.difference is None, str(found)
    assert found.ends == len(study.trials())


def test_a_search_that_goes_on_meanwhile_is_derived_as_far_as_it_was_read(
    tmp_path: Path,
    begin: Callable[..., Study],
    make_epoch: MakeEpoch,
    shape: ImageShape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Workers(make_epoch, shape).work(begin(tmp_path / "running"))
    for _ in range(30):
        next(steps)

    def then_it_goes_on(name: str) -> None:
        read = getattr(Record, name)

        def slowly(self: Record, *args: Any) -> Any:
            rows = read(self, *args)
            if self is not reader.record:
                return rows  # the driver reads too
            for _ in range(7):
                next(steps)
            return rows

        monkeypatch.setattr(Record, name, slowly)

    reader = open_study(tmp_path / "running")
    for name in ("epochs", "events", "decisions"):
        then_it_goes_on(name)
    found = verify(reader)
    assert found.difference is None, str(found)
    monkeypatch.undo()
    later = verify(reader)
    assert later.difference is None, str(later)
    # What was read last has its events among those read before, but not the other way round.
    assert later.decisions > found.decisions > 10
    assert found.ends < found.proposals


def test_nothing_is_written(searched: Callable[[str], Path]) -> None:
    folder = searched("stopping")

    def content() -> list[str]:
        with sqlite3.connect(folder / "study.db") as database:
            return list(database.iterdump())

    before, files = content(), sorted(folder.rglob("*"))
    assert verify(open_study(folder)).difference is None
    assert content() == before
    assert {p for p in sorted(folder.rglob("*")) if "study.db-" not in p.name} == {
        p for p in files if "study.db-" not in p.name
    }


ATTRIBUTE = "UPDATE trial_user_attributes SET value_json = {} WHERE key = '{}' AND trial_id = {}"
FORGED = {
    "a value": (
        "UPDATE fs_event SET value = value + 0.001 WHERE id ="
        " (SELECT event FROM fs_decision WHERE trial = 4 LIMIT 1)",
        r"t0004, event \d+, the decision on epoch 1: value: the record has 0\.\d+, derived is",
    ),
    "a value that nothing was decided on": (
        "UPDATE fs_event SET value = value - 0.3 WHERE kind = 'epoch' AND trial = 4 AND epoch = 2",
        r"t0004, event \d+, the table of epochs: epoch 2: the record has 0\.\d+, derived is",
    ),
    "the value of an epoch": (
        "UPDATE fs_epoch SET val_accuracy = 0.99 WHERE trial = 4 AND epoch = 2",
        r"t0004, event \d+, the table of epochs: epoch 2: the record has 0\.99, derived is 0\.",
    ),
    "an epoch left out": (
        "DELETE FROM fs_epoch WHERE trial = 4 AND epoch = 2",
        r"t0004, event \d+, the table of epochs: epoch 2: the record has nothing, derived is 0\.",
    ),
    "the value told to the sampler": (
        "UPDATE trial_intermediate_values SET intermediate_value = 0.1"
        " WHERE trial_id = 5 AND step = 2",
        r"t0004, event \d+, Optuna's intermediate values: epoch 2: the record has 0\.1, derived",
    ),
    "a decision": (
        "UPDATE fs_decision SET action = 'continue' WHERE action = 'stop'",
        r"event \d+, the decision on epoch \d: action: the record has continue, derived is stop$",
    ),
    "the reason of a decision": (
        "UPDATE fs_decision SET reason = 'luck' WHERE trial = 3",
        r"t0003, event \d+, the decision on epoch 1: reason: the record has luck, derived is \w+",
    ),
    "a cutoff": (
        "UPDATE fs_decision SET cutoff = 0.1 WHERE cutoff IS NOT NULL",
        r"the decision on epoch \d: cutoff: the record has 0\.1, derived is 0\.",
    ),
    "a decision left out": (
        "DELETE FROM fs_decision WHERE action = 'stop'",
        r"the decision on epoch \d: the record has none, derived is stop: rank \d+ of \d+",
    ),
    "a decision too many": (
        "INSERT INTO fs_decision SELECT 9999, study, 1, trial, epoch, bracket, rung, value, cutoff,"
        " rank, competitors, action, reason, at FROM fs_decision WHERE id = 1",
        r"^t\d{4}, a decision on event 1: the record has continue, derived is nothing$",
    ),
    "a parameter": (
        "UPDATE trial_params SET param_value = 0.01 WHERE param_name = 'learning_rate'"
        " AND trial_id = 7",
        r"t0006, event \d+, the proposal: learning_rate: the record has 0\.01, derived is 0\.",
    ),
    "a configuration": (
        ATTRIBUTE.format("replace(value_json, '256', '128')", "configuration", 6),
        r"t0005, .+ configuration: training: batch_size: the record has 128, derived is 256$",
    ),
    "an origin": (
        ATTRIBUTE.format("""'"point 1"'""", "origin", 6),
        r"t0005, event \d+, the proposal: origin: the record has point 1, derived is sampler$",
    ),
    "what a proposal was based on": (
        "UPDATE trial_user_attributes SET value_json = replace(value_json, 'model', 'exploration')"
        " WHERE key = 'proposal'",
        r"the proposal: proposal: by: the record has exploration, derived is model$",
    ),
    "an outcome": (
        "UPDATE fs_event SET outcome = 'pruned' WHERE outcome = 'complete'",
        r"event \d+, the end: outcome: the record has pruned, derived is complete$",
    ),
    "the reason of an end": (
        "UPDATE fs_event SET reason = 'rank 1 of 1' WHERE outcome = 'pruned'",
        r"event \d+, the end: reason: the record has rank 1 of 1, derived is rank \d+ of \d+ at",
    ),
    "an end too early": (
        "UPDATE fs_event SET outcome = 'complete', kind = 'ended', value = NULL"
        " WHERE kind = 'epoch' AND epoch = 2 AND trial = 4",
        r"t0004, event \d+, what happened: the record has its end as complete, derived is a furt",
    ),
    "an end left out": (
        "DELETE FROM fs_event WHERE kind = 'ended' AND outcome = 'infeasible' AND trial = 1",
        r"^t0001, the state: the record has FAIL, derived is RUNNING$",
    ),
    "the value of a trial": (
        "UPDATE trial_values SET value = 0.999 WHERE trial_id IN"
        " (SELECT trial_id FROM trials WHERE state = 'COMPLETE')",
        r"event \d+, the value: the record has \[0\.999\], derived is \[0\.\d+\]$",
    ),
    "the state of a trial": (
        "UPDATE trials SET state = 'PRUNED' WHERE state = 'COMPLETE'",
        r"event \d+, the state: the record has PRUNED, derived is COMPLETE$",
    ),
}


def forge(source: Path, folder: Path, statement: str) -> Study:
    """Copy a study and change its record."""
    shutil.copytree(source, folder)
    with sqlite3.connect(folder / "study.db") as database:
        assert database.execute(statement).rowcount > 0, "nothing was changed"
    database.close()
    return open_study(folder)


@pytest.mark.parametrize("what", FORGED)
def test_what_was_changed_in_the_record_is_found(
    what: str, searched: Callable[[str], Path], tmp_path: Path
) -> None:
    statement, said = FORGED[what]
    found = verify(forge(searched("stopping"), tmp_path / "forged", statement))
    assert found.difference is not None
    line = str(found.difference)
    assert "\n" not in line
    assert re.search(said, line), line
    assert line in str(found)


def test_a_promotion_that_was_due_is_missed(
    searched: Callable[[str], Path], tmp_path: Path
) -> None:
    statement = "DELETE FROM fs_event WHERE kind = 'promoted'"
    found = verify(forge(searched("promotion"), tmp_path / "forged", statement))
    said = r"what happened: the record has (a new proposal|epoch \d), derived is (the|a pause)"
    assert re.search(said, str(found.difference)), found.difference


def test_another_configuration_of_the_study_gives_other_proposals(
    searched: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(searched("random"), tmp_path / "forged")
    path = tmp_path / "forged" / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "\nseed: 0\n" in text
    path.write_text(text.replace("\nseed: 0\n", "\nseed: 1\n"), encoding="utf-8")
    found = verify(open_study(tmp_path / "forged"))
    assert re.search(r"^t0002, event \d+, the proposal: filters_1: ", str(found.difference))
    assert found.proposals == 2


def test_other_versions_are_told_and_nothing_more_where_all_is_the_same(
    searched: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(searched("random"), tmp_path / "elsewhere")
    study = open_study(tmp_path / "elsewhere")
    elsewhere = study.noted("environment") | {"numpy": "1.0", "processor": "PDP-11"}
    study.note("environment", elsewhere)
    found = verify(study)
    assert found.difference is None
    assert list(found.conditions) == ["numpy", "processor"]
    assert re.search(r"^caution: numpy is \S+ here, and was 1\.0$", str(found), re.M)
    assert "before you doubt" not in str(found)
    assert found.to_dict()["conditions"]["numpy"]["then"] == "1.0"
    forged = forge(searched("random"), tmp_path / "forged", FORGED["a decision"][0])
    assert "doubt" not in str(verify(forged))
    forged.note("environment", elsewhere)
    assert "verify where the study was begun before you doubt its record" in str(verify(forged))


def test_a_study_whose_images_nobody_described_is_refused_in_one_line(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    study = create(make_config(), tmp_path / "bare", facts={}, environment={})
    with pytest.raises(StudyError, match=r"bare does not tell the channels of its images; only a"):
        verify(study)


def test_the_command_says_so_in_its_exit_code(
    searched: Callable[[str], Path], tmp_path: Path
) -> None:
    place = ["--runs", str(searched("random").parent)]
    done = CliRunner().invoke(app, ["verify", "random", *place])
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.match(r"random: 19 proposals, \d+ decisions and 19 ends re-derived: all", done.stdout)
    forge(searched("random"), tmp_path / "forged", FORGED["a decision"][0])
    done = CliRunner().invoke(app, ["verify", "forged", "--runs", str(tmp_path)])
    assert done.exit_code == 1
    counts, difference = done.stdout.splitlines()
    assert counts.endswith("re-derived; then the first difference:")
    assert re.search(FORGED["a decision"][1], difference)
    done = CliRunner().invoke(app, ["verify", "forged", "--runs", str(tmp_path), "--json"])
    content = json.loads(done.stdout)
    assert (done.exit_code, content["same"]) == (1, False)
    assert (content["difference"]["stored"], content["difference"]["derived"]) == (
        "continue",
        "stop",
    )
