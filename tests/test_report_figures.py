"""What the report tells and draws of the search: curves, rungs, audit, space, timeline."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import told_study
from told_study import (
    compare,
    figures_of,
    look,
    make_config,
    race,
    retrain,
    search,
    written,
)

from search.record.study import Study, best_of, create
from search.report.facts import gather
from search.report.formats import percent
from search.report.space import Axis


@pytest.fixture
def at_stage(tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a copy of the study, brought to a stage."""
    return partial(told_study.at_stage, tmp_path)


def test_every_figure_is_placed_once_and_has_data(at_stage: Callable[..., Study]) -> None:
    page, _ = written(at_stage(race, retrain, look, compare))
    figures = figures_of(page)
    slices = {f"slice-{name}" for name in ("num_blocks", "filters_1", "learning_rate", "dropout")}
    expected = {"answer", "curves", "rungs", "importance", "parallel", "timeline", "race"}
    expected |= {"reliability"}
    assert expected | slices <= set(figures)
    assert sorted(re.findall(r'data-figure="(.*?)"', page)) == sorted(figures)
    for name, figure in figures.items():
        assert figure["data"], name
        for trace in figure["data"]:
            assert [x for x in trace["x"] if x is not None], (name, trace["name"])
            assert len(trace["x"]) == len(trace["y"]), (name, trace["name"])


def test_curves_show_every_epoch_of_every_trial(at_stage: Callable[..., Study]) -> None:
    study = at_stage()
    traces = figures_of(written(study)[0])["curves"]["data"]
    drawn = sorted(y for trace in traces for y in trace["y"] if y is not None)
    recorded = sorted(100 * (row.val_accuracy or 0) for row in study.record.epochs())
    assert drawn == pytest.approx(recorded)
    best = best_of(study.trials())
    assert best is not None
    bold = max(traces, key=lambda trace: trace["line"]["width"])
    assert bold["name"] == f"best: {best.name}"


def test_the_rung_board_names_every_stopped_trial_with_cutoff_and_reason(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage()
    page, text = written(study)
    stops = [d for d in study.record.decisions() if d["action"] == "stop"]
    assert stops
    for stop in stops:
        row = f"<td>t{stop['trial']:04d}</td>.*?{percent(stop['cutoff'])}.*?{stop['reason']}"
        assert re.search(row, page)
        assert f"| {percent(stop['cutoff'])} | {stop['reason']} |" in text


def test_an_audit_is_told_with_its_figures_and_trials(tmp_path: Path) -> None:
    study = create(make_config(asha={"audit_share": 1.0}), tmp_path / "a", facts={}, environment={})
    search(study)
    audited = {d["trial"]: d for d in study.record.decisions() if d["action"] == "audit"}
    assert len(audited) >= 3
    page, text = written(study)
    for content in (page, text):
        assert (
            f"{len(audited)} trials that ASHA would have stopped ran on, a share of 100%" in content
        )
        assert "Too few audited trials to tell" in content
    for number, decision in audited.items():
        value, final = percent(decision["value"]), percent(study.trial(number).value)
        cells = (f"t{number:04d}", decision["rung"], decision["epoch"], value, final)
        assert "| {} | {} | {} | {} | {} |".format(*cells) in text
    rows = gather(study)["rungs"]
    assert sum(row["audited"] for row in rows) == len(audited)
    assert sum(row["stopped"] for row in rows) == 0
    (trace,) = [
        trace for trace in figures_of(page)["audit"]["data"] if trace["name"].startswith("audited")
    ]
    assert sorted(trace["y"]) == sorted(100 * (study.trial(n).value or 0) for n in audited)
    (trace,) = [t for t in figures_of(page)["rungs"]["data"] if t["name"] == "audited"]
    assert len(trace["x"]) == len(audited)


def test_a_study_without_an_audit_says_how_to_have_one(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage())
    for content in (page, text):
        said = content.partition("Pruning audit")[2]
        assert "The audit was off. Switch it on in another study with --set asha.audit" in said
    assert "audit" not in figures_of(page)


def test_the_rung_board_of_the_promotion_form_has_who_waits_and_who_never_went_on(
    tmp_path: Path,
) -> None:
    config = make_config(asha={"form": "promotion", "brackets": 2})
    study = create(config, tmp_path / "promoted", facts={}, environment={})
    search(study)
    page, text = written(study)
    rows = {(row["bracket"], row["rung"]): row for row in gather(study)["rungs"]}
    assert list(rows) == [(0, 1), (0, 2), (1, 2)]
    never = [t for t in study.trials() if t.reason.startswith("never promoted")]
    assert never
    assert sum(row["stopped"] for row in rows.values()) == len(never)
    assert all(row["paused"] == 0 for row in rows.values())  # the search has ended
    promoted = {d["trial"] for d in study.record.decisions() if d["action"] == "promote"}
    assert promoted
    assert sum(row["went_on"] for row in rows.values()) >= len(promoted)
    assert "2 epochs, bracket 1" in page
    assert all(f"<td>{trial.name}</td>" in page and trial.reason in text for trial in never)
    assert "one in twenty of the trials to be paused at a rung then runs on" in text


def test_proposals_are_told_by_kind_with_what_they_cost(tmp_path: Path) -> None:
    sampler = {"kind": "fidelity", "startup_trials": 4}
    points = [{"num_blocks": 1, "filters_1": 8, "learning_rate": 0.1, "dropout": 0.0}]
    config = make_config(sampler=sampler, points=points)
    study = create(config, tmp_path / "kinds", facts={}, environment={})
    search(study)
    facts, trials = gather(study), study.trials()
    counts = {row["kind"]: row["trials"] for row in facts["proposals"]}
    assert counts.pop("baselines") == counts.pop("points of the study file") == 1
    by = [trial.proposal["by"] for trial in trials if trial.origin == "sampler"]
    assert counts.pop("model: of the values at all rungs") == by.count("model") > 3
    assert counts.pop("start: spread over the space") == by.count("start") == 3
    assert sum(counts.values()) == by.count("exploration")
    asked = [t.user_attrs["ask_seconds"] for t in study.optuna.get_trials() if t.params]
    assert facts["ask"]["seconds"] == pytest.approx(sum(asked))
    assert facts["ask"]["p95_ms"] <= 1000 * max(asked)
    for content in written(study):
        assert f"95 in 100 took at most {facts['ask']['p95_ms']:,.0f} ms" in content


def test_few_complete_trials_give_no_importance_but_the_reason(tmp_path: Path) -> None:
    config = make_config(budget={"trials": 1})
    study = create(config, tmp_path / "few", facts={}, environment={})
    search(study)
    page, text = written(study)
    said = "Parameter importance is not shown: complete trials: 1, but at least 2 are needed"
    assert said in page
    assert said in text
    assert "importance" not in figures_of(page)


def test_the_timeline_leaves_out_the_time_between_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create(make_config(), tmp_path / "two", facts={}, environment={})
    for begin, trial in ((100.0, 0), (9000.0, 1)):
        times = iter([begin, begin + 2, begin + 12, begin + 15])
        monkeypatch.setattr("search.record.record.time.time", lambda times=times: next(times))
        session = study.sessions.start("search", host="here", pid=1)
        study.record.start_attempt(trial, from_epoch=0)
        study.record.end_attempt(trial, 1, outcome="complete", reason="")
        study.sessions.end(session)
    monkeypatch.undo()
    facts = gather(study)
    assert [(bar["start"], bar["seconds"]) for bar in facts["bars"]] == [(2, 10), (17, 10)]
    assert facts["joins"] == [15]


@pytest.mark.parametrize(
    ("axis", "value", "end"),
    [
        (Axis(name="rate", low=0.01, high=1.0, log=True), 0.0101, "lowest"),
        (Axis(name="rate", low=0.01, high=1.0, log=True), 0.1, ""),
        (Axis(name="filters", choices=(16, 32, 64)), 64, "highest"),
        (Axis(name="filters", choices=(16, 32, 64)), 32, ""),
        (Axis(name="kernel", choices=(3, 5)), 5, ""),  # of two values both are ends
        (Axis(name="blocks", low=1, high=2, whole=True), 1, ""),
        (Axis(name="dropout", low=0.0, high=0.5), 0.0, ""),  # nothing is below no dropout
        (Axis(name="residual", choices=(False, True)), True, ""),
        (Axis(name="head", choices=("flatten", "average", "both")), "both", ""),
    ],
)
def test_an_edge_of_the_space_is_one_that_could_be_moved(axis: Axis, value: Any, end: str) -> None:
    assert axis.edge(value) == end
