"""`run --from`: a study that begins with what another one's trials say, by its own record alone."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import told_study
from postgres_server import running_server
from simulated_search import told
from typer.testing import CliRunner

from benchmarks.landscape import FINGERPRINT, SPACE, go_on, searched, settings
from search.cli import app
from search.config.config import StudyConfig
from search.config.config_error import ConfigError
from search.drive.driver import Driver
from search.drive.extend import Wish, extend
from search.explain.child import bequeath, child_of, next_name, write_child
from search.explain.explain import explain
from search.explain.verify import verify
from search.record.lineage import Lineage, digest, inherited, lineage_of
from search.record.study import Study, StudyError, open_study
from search.report.lineage import lineage_facts
from search.report.report import write_report
from search.report.seal import seal_facts
from search.run import new_study
from search.study_error import StorageError

CHECKOUT = Path(__file__).parent.parent
NARROW: dict[str, Any] = {
    "filters": 16,
    "learning_rate": {"float": [0.01, 1.0], "log": True},
    "momentum": {"float": [0.5, 0.95]},
    "flip": {"choice": [False, True]},
}


def _hill(configuration: Any) -> float | None:
    rate = math.log10(configuration["learning_rate"])
    if rate > -0.3:
        return None
    height = 0.9 - 0.04 * (rate + 0.9) ** 2 - 0.6 * (configuration["momentum"] - 0.8) ** 2
    return float(height - (0.0 if configuration["flip"] else 0.01))


def _settings(seed: int = 0, **changes: Any) -> StudyConfig:
    content: dict[str, Any] = {"space": NARROW, "budget": {"trials": 24}}
    return settings(seed, **(content | changes))


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was searched."""
    study, _ = searched(tmp_path_factory.mktemp("runs") / "parent", _settings(), _hill)
    return study.folder


@pytest.fixture
def parent(parent_folder: Path, tmp_path: Path) -> Study:
    """Return a copy of it."""
    return open_study(Path(shutil.copytree(parent_folder, tmp_path / "parent")))


@pytest.fixture
def bear(parent: Study, tmp_path: Path) -> Callable[..., Study]:
    """Return a function that searches a child of it, and then deletes the parent."""

    def make(name: str = "child", epochs: int = 10**9, **changes: Any) -> Study:
        config = _settings(7, **({"budget": {"trials": 12}} | changes))
        lineage = bequeath(parent, config, FINGERPRINT)
        child, _ = searched(tmp_path / name, config, _hill, lineage=lineage, until=-1.0)
        if parent.folder.exists():
            shutil.rmtree(parent.folder)
        go_on(child, _hill, most=epochs)
        return child

    return make


def test_a_child_begins_with_a_model_of_its_parents_trials(bear: Callable[..., Study]) -> None:
    child = bear()
    by = [trial.proposal["by"] for trial in child.trials()]
    assert "start" not in by and by.count("model") >= 6
    first = next(trial for trial in child.trials() if trial.proposal["by"] == "model")
    assert first.proposal["inherited"] >= 15
    assert first.proposal["observations"] - first.proposal["inherited"] <= first.number


def test_few_trials_of_a_parent_leave_some_to_start_with(parent: Study, tmp_path: Path) -> None:
    config = _settings(7, sampler={"startup_trials": 30}, budget={"trials": 12})
    lineage = bequeath(parent, config, FINGERPRINT)
    child, _ = searched(tmp_path / "child", config, _hill, lineage=lineage)
    starts = [trial.proposal["by"] == "start" for trial in child.trials()]
    assert sum(starts) == 30 - len(lineage.taken) > 0
    assert all(starts[: sum(starts)])


def test_every_epoch_of_a_parents_trial_is_taken_and_what_diverged_too(parent: Study) -> None:
    lineage = bequeath(parent, _settings(), FINGERPRINT)
    trials = {trial.number: trial for trial in parent.trials()}
    assert len(lineage.taken) == len(trials) == 24
    for one in lineage.taken:
        rows = trials[one.trial].epochs
        values = {row.epoch: row.val_accuracy for row in rows if row.train_loss is not None}
        assert one.curve == values
        assert one.untrainable == (trials[one.trial].outcome == "infeasible")
    assert any(one.untrainable for one in lineage.taken)


def test_baselines_are_no_evidence_and_not_counted(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"baselines": ["seed-32"], "budget": {"trials": 5}}
    study, _ = searched(tmp_path / "parent", _settings(**changes), _hill)
    lineage = bequeath(study, _settings(), FINGERPRINT)
    assert {one.trial for one in lineage.taken} == {1, 2, 3, 4} and not lineage.left_out


def test_what_lies_outside_the_childs_space_is_left_out_and_counted(parent: Study) -> None:
    space = NARROW | {"learning_rate": {"float": [0.05, 3.0], "log": True}, "flip": True}
    lineage = bequeath(parent, _settings(space=space), FINGERPRINT)
    inside = {
        trial.number
        for trial in parent.trials()
        if (plain := trial.configuration) is not None
        and plain["training"]["learning_rate"] >= 0.05
        and plain["training"]["flip"]
    }
    assert {one.trial for one in lineage.taken} == inside and 0 < len(inside) < 24
    assert sum(lineage.left_out.values()) == 24 - len(inside)
    assert set(lineage.left_out) == {"flip is True here", "learning_rate is from 0.05 to 3 here"}
    assert all("flip" not in one.params for one in lineage.taken)


def test_the_lineage_says_who_and_what_was_changed(bear: Callable[..., Study]) -> None:
    space = NARROW | {"flip": True}
    found = lineage_of(bear(space=space))
    assert found is not None and json.loads(json.dumps(found)) == found
    assert found["parent"] == "parent" and found["generation"] == 2
    assert found["trials_taken"] + found["trials_left_out"] == 24
    (change,) = found["changes"]
    assert (change["parameter"], change["was"], change["is"]) == ("flip", NARROW["flip"], True)


def test_a_study_without_a_parent_has_no_lineage(parent: Study) -> None:
    assert lineage_of(parent) is None and inherited(parent) == []


def test_budget_and_best_are_the_childs_own(bear: Callable[..., Study]) -> None:
    child = bear(budget={"epochs": 20})
    assert sum(len(trial.epochs) for trial in child.trials()) in range(20, 22)
    assert [trial.number for trial in child.trials()] == list(range(len(child.trials())))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"asha": {"form": "stopping", "grace_epochs": 1, "reduction_factor": 3}},
        {"sampler": {"kind": "tpe", "startup_trials": 10}},
        {"sampler": {"kind": "random"}},
        {"points": [{"flip": True, "learning_rate": 0.1}], "space": NARROW | {"momentum": 0.9}},
    ],
    ids=["promotion", "stopping", "tpe", "random", "points"],
)
def test_every_proposal_of_a_child_is_derived_again_without_the_parent(
    bear: Callable[..., Study], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "momentum" in str(changes.get("space")):  # as if `space` had said that it did nothing
        advised = "search.explain.space_advice.Advice.did_nothing"
        monkeypatch.setattr(advised, property(lambda self: {"momentum"}))
    child = open_study(bear(**changes).folder)
    assert len(inherited(child)) == 24
    result = verify(child)
    assert result.difference is None, result.difference
    assert result.proposals == 12


def test_tpe_learns_from_what_the_parents_trials_reached(parent: Study, tmp_path: Path) -> None:
    sampler = {"kind": "tpe", "startup_trials": 10}
    config = _settings(7, sampler=sampler, budget={"trials": 1})
    lineage = bequeath(parent, config, FINGERPRINT)
    turned = tuple(
        replace(one, curve={epoch: 1.0 - value for epoch, value in one.curve.items()})
        for one in lineage.taken
    )
    other = replace(lineage, taken=turned, facts={**lineage.facts, "digest": digest(turned)})
    params = []
    for name, given in (("as-it-was", lineage), ("turned", other)):
        child, _ = searched(tmp_path / name, config, _hill, lineage=given)
        assert child.trials()[0].proposal == {"by": "tpe"}
        params.append(child.optuna.get_trials()[0].params)
    assert params[0] != params[1]


def _alter(folder: Path, *, digest_too: bool) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        (best,) = connection.execute(
            "SELECT number FROM fs_inherited WHERE untrainable = 0 ORDER BY length(curve) DESC"
        ).fetchone()
        (curve,) = connection.execute(
            "SELECT curve FROM fs_inherited WHERE number = ?", (best,)
        ).fetchone()
        values = {epoch: value - 0.05 for epoch, value in json.loads(curve).items()}
        connection.execute(
            "UPDATE fs_inherited SET curve = ? WHERE number = ?", (json.dumps(values), best)
        )
        connection.commit()
    if digest_too:
        from search.record.lineage import NOTED, as_stored

        study = open_study(folder)
        study.note(NOTED, study.noted(NOTED) | {"digest": digest(as_stored(study))})


@pytest.mark.parametrize("digest_too", [False, True])
def test_an_altered_value_of_an_ancestor_is_found(
    bear: Callable[..., Study], digest_too: bool
) -> None:
    folder = bear().folder
    _alter(folder, digest_too=digest_too)
    difference = verify(open_study(folder)).difference
    assert difference is not None
    expected = "the proposal" if digest_too else "the digest of the trials of parent"
    assert difference.what.startswith(expected), difference


def test_a_search_does_not_go_on_from_altered_evidence(bear: Callable[..., Study]) -> None:
    folder = bear(epochs=5).folder
    _alter(folder, digest_too=False)
    with pytest.raises(StorageError, match="trials of parent whose digest differs"):
        go_on(open_study(folder), _hill)


@pytest.mark.parametrize("after", [1, 9])
def test_a_child_that_was_killed_goes_on_as_if_it_had_not(
    bear: Callable[..., Study], after: int
) -> None:
    whole = bear("whole")
    lineage = Lineage(facts=whole.noted("lineage"), taken=tuple(inherited(whole)), left_out={})
    config = _settings(7, budget={"trials": 12})
    folder = whole.folder.parent / "cut"
    searched(folder, config, _hill, lineage=lineage, until=-1.0)  # ends after one whole trial
    while go_on(open_study(folder), _hill, most=after) == after:
        pass
    assert told(open_study(folder)) == told(whole)


def test_an_extended_child_still_follows_from_its_record(bear: Callable[..., Study]) -> None:
    child = bear()
    child.set_state("searched")
    longer, _ = extend(child, Wish(max_epochs=18, trials="+8"))
    go_on(longer, _hill)
    assert verify(longer).difference is None
    assert any(trial.max_epochs == 18 for trial in longer.trials())


def test_a_grandchild_knows_its_grandparents_trials(
    bear: Callable[..., Study], tmp_path: Path
) -> None:
    child = bear()
    config = _settings(9, budget={"trials": 8})
    lineage = bequeath(child, config, FINGERPRINT)
    studies = [one.study for one in lineage.taken]
    assert studies == ["parent"] * 24 + ["child"] * len(child.trials())
    grandchild, _ = searched(tmp_path / "grandchild", config, _hill, lineage=lineage)
    shutil.rmtree(child.folder)
    grandchild = open_study(grandchild.folder)
    found = lineage_of(grandchild)
    assert found is not None
    assert (found["generation"], found["ancestors"]) == (3, ["child", "parent"])
    assert verify(grandchild).difference is None


def _look(study: Study, *, seen: bool) -> None:
    look = study.record.add_look(reason="final", models="{}", broke_seal=False)
    if seen:
        study.record.end_look(look, result="{}")


def test_looks_at_the_test_set_are_inherited(parent: Study, tmp_path: Path) -> None:
    for seen in (True, False, True):
        _look(parent, seen=seen)
    config = _settings(7, budget={"trials": 1})
    child, _ = searched(
        tmp_path / "child", config, _hill, lineage=bequeath(parent, config, FINGERPRINT)
    )
    _look(child, seen=True)
    grandchild, _ = searched(
        tmp_path / "grandchild", config, _hill, lineage=bequeath(child, config, FINGERPRINT)
    )
    _look(parent, seen=True)  # after the child had begun: nothing of it went into its space
    found = [lineage_of(study) for study in (child, grandchild)]
    assert [one and one["test_looks"] for one in found] == [2, 3]
    facts = seal_facts(child)
    assert facts["num_looks"] == 1
    assert facts["looks_words"] == "1 look at the test set, 2 before by its ancestors"
    assert facts["looks_before"].startswith("Its ancestors had looked at the test set 2 times:")
    assert ("Test set", "its ancestors had looked at it 2 times") in lineage_facts(
        {"lineage": found[0]}
    )["lineage_rows"]
    assert seal_facts(parent)["looks_before"] == ""
    assert seal_facts(parent)["looks_words"] == "3 looks at the test set"


def test_looks_of_ancestors_stand_beside_the_answer(tmp_path: Path) -> None:
    study = told_study.at_stage(tmp_path, told_study.race, told_study.retrain, told_study.look)
    facts = {"parent": "one", "ancestors": ["one"], "generation": 2, "trials_taken": 5}
    facts |= {"trials_left_out": {}, "changes": [], "test_looks": 2, "digest": digest([])}
    study.note("lineage", facts)
    write_report(study)
    page, text = (
        (study.folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")
    )
    words = "1 look at the test set, 2 before by its ancestors"
    for section in ("answer", "final"):
        assert words in page.split(f'<section id="{section}">')[1].split("</section>")[0]
    assert text.count(words) >= 2
    seal = page.split('<section id="seal">')[1].split("</section>")[0]
    for part in (seal, text.split("## The seal's record")[1].split("## Conditions")[0]):
        assert "Its ancestors had looked at the test set 2 times: what was learnt there" in part
    assert "- Test set: its ancestors had looked at it 2 times" in text


def test_trials_of_other_images_are_refused_in_one_line(parent: Study) -> None:
    with pytest.raises(StudyError, match="other images or another split") as caught:
        bequeath(parent, _settings(), "0" * 64)
    assert "without --from" in str(caught.value)


def test_trials_of_another_length_of_training_are_refused(parent: Study) -> None:
    with pytest.raises(StudyError, match="24 trained for 9 epochs, not 27"):
        bequeath(parent, _settings(max_epochs=27), FINGERPRINT)


def test_explain_tells_of_the_ancestors(bear: Callable[..., Study]) -> None:
    child = bear()
    near = [t for t in child.trials() if (t.proposal.get("near") or 0) < 0]
    assert near, "a trial was drawn near one of the parent's"
    lines = " ".join(explain(child, near[0].name).sections["Proposed"])
    assert "of all these are trials of parent" in lines
    assert "It was drawn near t00" in lines and " of parent, one of the best" in lines


def test_explain_names_the_trial_that_a_point_repeats(
    parent: Study, bear: Callable[..., Study]
) -> None:
    best = min(parent.trials(), key=lambda trial: trial.merit)
    point = parent.optuna.get_trials()[best.number].params
    child = bear(points=[point])
    lines = " ".join(explain(child, "0").sections["Proposed"])
    assert f"It is the configuration of {best.name} of parent, which reached" in lines


def test_a_new_study_takes_evidence_only_on_the_same_images(tmp_path: Path) -> None:
    data = {"source": "synthetic", "synthetic_train": 300, "validation_images": 60}
    config = _settings(data=data, budget={"trials": 6}, study="first")
    first, _ = new_study(config, tmp_path, "quiet")
    go_on(first, _hill)
    second, _ = new_study(
        config.model_copy(update={"study": "second"}), tmp_path, "quiet", None, first
    )
    assert len(inherited(open_study(second.folder))) == 6
    changed = config.model_copy(
        update={"study": "third", "data": config.data.model_copy(update={"seed": 1})}
    )
    with pytest.raises(StudyError, match="not comparable"):
        new_study(changed, tmp_path, "quiet", parent=first)
    assert not (tmp_path / "third").exists()


@pytest.mark.slow
def test_a_child_reaches_a_target_sooner(tmp_path: Path) -> None:
    # Fixed seeds, epochs counted: no clock.
    with_it, without = list[int](), list[int]()
    for seed in range(3):
        first = settings(seed, budget={"trials": 40})
        parent, _ = searched(tmp_path / f"parent-{seed}", first, _steep)
        config = settings(seed + 100, budget={"trials": 80})
        lineage = bequeath(parent, config, FINGERPRINT)
        for spent, given in ((with_it, lineage), (without, None)):
            name = f"child-{seed}-{given is not None}"
            _, epochs = searched(tmp_path / name, config, _steep, lineage=given, until=0.885)
            spent.append(epochs)
    assert sum(with_it) < 0.7 * sum(without), (with_it, without)


def _steep(configuration: Any) -> float:
    rate, decay = (math.log10(configuration[k]) for k in ("learning_rate", "weight_decay"))
    height = 0.9 - 0.03 * (rate + 0.7) ** 2 - 0.01 * (decay + 2.5) ** 2
    height -= 0.5 * (configuration["momentum"] - 0.75) ** 2
    height -= 0.3 * (configuration["dropout"] - 0.2) ** 2
    return float(height - (0.0 if configuration["flip"] else 0.01))


@pytest.mark.slow
def test_a_family_shares_a_database_on_a_server(tmp_path: Path) -> None:
    with running_server() as server:
        url = server.url("postgres")
        config = _settings(storage=url, budget={"trials": 12})
        parent, _ = searched(tmp_path / "parent", config, _hill)
        lineage = bequeath(parent, config, FINGERPRINT)
        first, _ = searched(tmp_path / "child", config, _hill, lineage=lineage)
        second = bequeath(first, config, FINGERPRINT)
        last, _ = searched(tmp_path / "grandchild", config, _hill, lineage=second)
        assert [len(inherited(study)) for study in (parent, first, last)] == [0, 12, 24]
        assert verify(open_study(first.folder)).difference is None
        assert verify(open_study(last.folder)).difference is None


def test_evidence_is_no_trial_of_the_child(bear: Callable[..., Study], shape: Any) -> None:
    child = bear(epochs=3)
    Driver(child, shape=shape, slots=1)
    assert len(child.optuna.get_trials()) == len(child.trials()) < 24


@pytest.mark.parametrize(
    ("name", "child"),
    [
        ("quickstart", "quickstart-2"),
        ("quickstart-2", "quickstart-3"),
        ("run-2026-9", "run-2026-10"),
        ("x" * 64, "x" * 62 + "-2"),
    ],
)
def test_names_of_children(name: str, child: str) -> None:
    assert next_name(name) == child
    settings(study=child)


def test_the_space_of_these_tests_is_a_space() -> None:
    assert set(NARROW) <= set(SPACE)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_begins_a_child_and_says_what_it_takes(tmp_path: Path) -> None:
    data = {"source": "synthetic", "synthetic_train": 400, "synthetic_test": 100}
    config = _settings(
        study="first",
        data=data | {"validation_images": 80},
        max_epochs=2,
        budget={"trials": 10},
        space=NARROW | {"filters": 4, "batch_size": 64},
        final={"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
    )
    first, _ = new_study(config, tmp_path, "quiet")
    go_on(first, _hill)
    command = [sys.executable, "-m", "search", "run", "--from", "first", "--runs", str(tmp_path)]
    command += ["--set", "budget={trials: 3}", "--set", "resources.max_concurrent=2"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "from first: 10 trials taken as evidence" in done.stderr
    assert "child.yaml" not in done.stderr
    child = open_study(tmp_path / "first-2")
    assert [trial.origin for trial in child.trials()] == ["point 1", "point 2", "sampler"]
    (sampled,) = [trial for trial in child.trials() if trial.origin == "sampler"]
    assert sampled.proposal["by"] == "model"
    assert sampled.proposal["inherited"] == len(inherited(child)) == 10
    proposed = " ".join(explain(child, sampled.name).sections["Proposed"])
    assert "10 of all these are trials of first" in proposed
    found = lineage_of(child)
    assert found is not None and found["parent"] == "first"
    assert verify(child).difference is None


def _begun_from(parent: Study, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[Any, str]:
    """Return the configuration that `run --from` would begin a study with, and what it says."""
    begun: list[Any] = []

    def stop(config: Any, *_: Any, **__: Any) -> Any:
        begun.append(config)
        raise StudyError("enough")

    monkeypatch.setattr("search.run.new_study", stop)
    told_of = CliRunner().invoke(
        app, ["run", "--from", str(parent.folder), "--runs", str(parent.folder.parent), *more]
    )
    assert str(told_of.exception) == "enough", told_of.output
    return begun[0], told_of.stderr


def test_a_childs_file_that_is_there_is_used_as_it_is(
    parent: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, said = _begun_from(parent, monkeypatch)
    assert made == child_of(parent).config and said == ""
    file = write_child(child_of(parent), parent, None)
    edited = file.read_text(encoding="utf-8").replace("filters: 16", "filters: 24")
    file.write_text(edited, encoding="utf-8")
    used, said = _begun_from(parent, monkeypatch, "--set", "seed=11")
    assert (used.space["filters"], used.seed) == (24, 11)
    assert said == "child.yaml of parent is used\n"
    other = tmp_path / "other.yaml"
    other.write_text(child_of(parent).text, encoding="utf-8")
    given, said = _begun_from(parent, monkeypatch, str(other))
    assert given.space["filters"] == 16 and said == ""


def test_a_childs_file_with_a_fault_is_named_and_not_passed_over(parent: Study) -> None:
    (parent.folder / "child.yaml").write_text("study: mine\nspice: {}\n", encoding="utf-8")
    told_of = CliRunner().invoke(app, ["run", "--from", str(parent.folder)])
    assert isinstance(told_of.exception, ConfigError)
    assert f"{parent.folder / 'child.yaml'}:2" in str(told_of.exception)


def test_a_parent_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    told_of = CliRunner().invoke(app, ["run", "--from", "nobody", "--runs", str(tmp_path)])
    assert isinstance(told_of.exception, StudyError)
    assert "holds no study" in str(told_of.exception)
