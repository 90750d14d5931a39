"""The report of a study at every stage: what it says, what it draws, and that it stays one file."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.images import ImageShape
from model.evaluate import evaluate_logits
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.prune.settle import settle
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, StudyError, best_of, create, open_study
from search.report.facts import gather
from search.report.report import count, duration, interval, percent, plain, short, write_report
from search.report.space import Axis

EVIL = "<script>alert('x')</script>"
CLASSES = ("shirt", EVIL, "a|b `c`")
SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=3)
CONFIG: dict[str, Any] = {
    "study": "small",
    "max_epochs": 4,
    "data": {"source": "synthetic"},
    "space": {
        "num_blocks": {"int": [1, 2]},
        "filters": {"choice": [4, 8, 16], "per_block": True},
        "learning_rate": {"float": [0.001, 0.5], "log": True},
        "dropout": {"float": [0.0, 0.5]},
    },
    "baselines": ["seed-32"],
    "asha": {"form": "stopping", "grace_epochs": 1, "reduction_factor": 2, "min_competitors": 2},
    "sampler": {"kind": "random"},
    "budget": {"trials": 16},
}
DATA = {
    "name": "synthetic",
    "origin": f"drawn by {EVIL}",
    "synthetic": True,
    "fingerprint": "ab" * 32,
    "train_images": 900,
    "validation_images": 100,
    "classes": list(CLASSES),
}
SECTIONS = (
    "The answer",
    "Leaderboard",
    "Learning curves",
    "Rung board",
    "Pruning audit",
    "What mattered",
    "Timeline",
    "Failures and infeasible trials",
    "Final models",
    "Conditions",
)


def metrics(epoch: int, accuracy: float, loss: float = 0.5) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        train_accuracy=0.8,
        val_loss=0.6,
        val_accuracy=accuracy,
        learning_rate=0.1,
        images_per_second=1000.0,
        seconds=1.5,
    )


def make_config(**changes: Any) -> StudyConfig:
    """Return the small study's configuration with keys replaced; those of `asha` are added."""
    asha = CONFIG["asha"] | changes.pop("asha", {})
    return settle(StudyConfig.model_validate(CONFIG | changes | {"asha": asha}), slots=1)


def search(study: Study) -> None:
    """Drive a search by hand: trial 2 raises, 3 diverges, 4 loses its worker once."""
    driver = Driver(study, shape=SHAPE, slots=1)
    session = study.sessions.start("search", host="here", pid=1)
    while (assignment := driver.next()) is not None:
        trial, attempt = assignment.trial, assignment.attempt
        driver.place(trial, node=f"node {EVIL}", pid=4000 + trial % 2)
        if trial == 2:
            driver.on_failure(
                trial,
                Failure(kind="bug", reason=f"ValueError: {EVIL}", trace=f"ValueError: {EVIL}"),
            )
            continue
        for epoch in itertools.count(assignment.from_epoch + 1):
            loss = math.nan if trial == 3 else 0.5
            accuracy = 0.5 + 0.3 * (trial * 0.618 % 1) + 0.02 * epoch
            if driver.on_epoch(trial, metrics(epoch, accuracy, loss)).action == "stop":
                break
            if trial == 4 and attempt == 1:
                driver.on_failure(
                    trial, Failure(kind="worker lost", reason=f"the node went away {EVIL}")
                )
                break
    study.sessions.end(session)
    study.set_state("searched")


def retrain(study: Study) -> None:
    """Write final/metrics.json as a retrain leaves it."""
    best = best_of(study.trials())
    assert best is not None
    rows = [
        {
            "name": name,
            "group": name.rpartition("-s")[0],
            "seed": 7,
            "epochs": 4,
            "configuration": best.configuration,
            "model_sha256": "00",
            "train_accuracy": 0.9,
            "train_loss": 0.3,
            "seconds": 75.0,
        }
        for name in ("winner-s0", "winner-s1", "seed-32-s0")
    ]
    (study.folder / "final" / "winner-s0").mkdir(parents=True)
    write_metrics(study.folder / "final", {"winner_trial": best.name, "models": rows})
    study.set_state("retrained")


def look(study: Study) -> None:
    """Add test results, as a look at the test set leaves them."""
    content = read_metrics(study.folder / "final")
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=200)
    logits = draw.normal(size=(200, 3)).astype(np.float32)
    logits[np.arange(200), labels] += 2
    for row in content["models"]:
        row["test"] = evaluate_logits(logits, labels, CLASSES).to_dict()
    group = {"test_accuracy": 0.91236, "test_accuracy_std": 0.0021, "ci95": [0.9065, 0.9180]}
    content["groups"] = {
        "winner": group | {"seeds": 2, "test_accuracies": [0.9109, 0.9138]},
        "seed-32": group
        | {"seeds": 1, "test_accuracy": 0.87, "ci95": [0.86, 0.88], "test_accuracies": [0.87]},
    }
    content["test_images"] = 200
    write_metrics(study.folder / "final", content)
    probabilities = np.full((4, 3), 1 / 3, dtype=np.float32)
    np.savez_compressed(
        study.folder / "final" / "winner-s0" / "worst.npz",
        images=draw.integers(255, size=(4, 1, 28, 28), dtype=np.uint8),
        labels=np.array([0, 1, 2, 2]),
        predictions=np.array([1, 2, 0, 2]),
        probabilities=probabilities,
    )
    study.record.end_look(
        study.record.add_look(reason=f"final evaluation {EVIL}", models="{}", broke_seal=False),
        result="{}",
    )
    study.set_state("finished")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was searched by hand."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    study = create(make_config(), folder, facts={"data": DATA}, environment={"gpu": EVIL})
    search(study)
    return folder


@pytest.fixture
def at_stage(searched: Path, tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a copy of the study, brought to a stage."""

    def make(*stages: Callable[[Study], None]) -> Study:
        shutil.copytree(searched, tmp_path / "small")
        study = open_study(tmp_path / "small")
        for stage in stages:
            stage(study)
        return study

    return make


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="figures" type="application/json">(.*?)</script>', page)
    assert found is not None
    figures: dict[str, Any] = json.loads(found.group(1))
    return figures


def written(study: Study) -> tuple[str, str]:
    page = write_report(study)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


def test_every_section_stands_in_both_files_answer_first(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage(retrain, look))
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(SECTIONS)
    assert re.findall(r"^## (.*)$", text, re.M) == list(SECTIONS)
    for content in (page, text):
        assert "91.24%" in content  # the mean of the winner's seeds
        assert "90.65 to 91.80%" in content
        assert "4.24 points above the best baseline" in content
        assert "the 95% intervals do not overlap" in content
        assert "python -m search run runs/small/config.yaml --name small-again" in content
        assert "ab" * 32 in content  # the data's fingerprint


def test_every_figure_is_placed_once_and_has_data(at_stage: Callable[..., Study]) -> None:
    page, _ = written(at_stage(retrain, look))
    figures = figures_of(page)
    slices = {f"slice-{name}" for name in ("num_blocks", "filters_1", "learning_rate", "dropout")}
    expected = {"answer", "curves", "rungs", "importance", "parallel", "timeline", "reliability"}
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


def test_what_people_wrote_is_shown_and_not_obeyed(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage(retrain, look))
    assert EVIL not in page
    assert "<script" not in text.partition("config.yaml, as resolved")[0]
    # Shown in the origin, a class, a failure, a lost worker, the look, the environment.
    assert page.count(html.escape(EVIL).replace("&#x27;", "&#39;")) >= 6
    plots = json.dumps(figures_of(page))
    assert "<script" not in plots
    assert "&lt;script&gt;" in plots  # Plotly reads HTML in labels
    assert "a\\|b \\`c\\`" in text  # a cell of a Markdown table stays one cell
    rows = [line for line in text.splitlines() if line.startswith("| shirt")]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 8


def test_drawn_images_are_announced_and_not_compared_with_published_numbers(
    at_stage: Callable[..., Study],
) -> None:
    page, text = written(at_stage(retrain, look))
    assert 'class="banner" role="alert">Not real data' in page
    assert "> **Not real data" in text
    assert "91.1%" not in page + text  # what the notebook published for seed-32
    assert "published, one" not in json.dumps(figures_of(page))


def test_a_substitution_is_announced_with_its_reason(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    study.note("data", DATA | {"name": "fashion-mnist", "synthetic": False})
    study.note("substitution", "drawn images stand in for fashion-mnist: no network")
    page, _ = written(study)
    assert "Not real data: drawn images stand in for fashion-mnist: no network" in page
    assert "91.1%" not in page


def test_real_images_are_compared_with_the_published_numbers(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(retrain, look)
    study.note("data", DATA | {"name": "fashion-mnist", "synthetic": False})
    page, text = written(study)
    assert 'class="banner"' not in page
    assert '<td class="n">91.1%</td>' in page
    assert "| 91.1% |" in text
    assert "published, one training" in json.dumps(figures_of(page))
    for content in (page, text):
        assert "The notebook published 91.1% for its best" in content


def test_a_study_without_trials_says_how_to_go_on(tmp_path: Path) -> None:
    study = create(make_config(), tmp_path / "new", facts={}, environment={})
    page, text = written(study)
    for content in (page, text):
        assert "No trial has a value yet" in content
        assert "python -m search resume new" in content
        assert "There is no answer yet" in content
    assert figures_of(page) == {}
    assert 'id="plotly"' not in page  # nothing to draw, nothing to carry


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([lambda study: study.set_state("stopped")], "python -m search resume small"),
        ([], "python -m search retrain small"),
        ([retrain], "python -m search evaluate small"),
    ],
)
def test_a_stage_that_is_missing_is_named_with_its_command(
    at_stage: Callable[..., Study], stages: list[Callable[[Study], None]], said: str
) -> None:
    page, text = written(at_stage(*stages))
    assert f"<code>{said}</code>" in page
    assert f"`{said}`" in text
    assert "There is no test accuracy yet" in page
    assert "There are no test results yet" in page
    assert "Intact" in page
    figures = figures_of(page)
    assert {"curves", "rungs", "timeline"} <= set(figures)
    assert not {"answer", "reliability"} & set(figures)


def test_a_finished_study_has_no_next_step(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    assert gather(study)["next_step"] == ("", "")
    assert "python -m search resume" not in written(study)[0]


def test_a_broken_seal_is_said_beside_the_answer(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    study.record.end_look(
        study.record.add_look(reason="the export was wrong", models="{}", broke_seal=True),
        result="{}",
    )
    page, text = written(study)
    for content in (page, text):
        assert "The seal of the test set was broken: it was looked at 2 times" in content
        assert "the export was wrong" in content


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_damaged_images_of_mistakes_are_named_with_what_to_do(
    at_stage: Callable[..., Study], content: bytes
) -> None:
    study = at_stage(retrain, look)
    path = study.folder / "final" / "winner-s0" / "worst.npz"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"worst\.npz is not what was written .* remove it"):
        write_report(study)
    path.unlink()
    assert write_report(study).is_file()


def test_a_winner_that_was_overtaken_is_said(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    content = read_metrics(study.folder / "final")
    write_metrics(study.folder / "final", content | {"winner_trial": "t0001"})
    assert "The retrained winner is t0001; since then" in written(study)[0]


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


def test_the_page_is_one_file_that_loads_nothing(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    page, _ = written(study)
    assert (study.folder / "report.html").stat().st_size < 6_000_000
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", page)
    assert sources
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in sources)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<link|<iframe", page)
    assert "http://" not in page
    assert "https://" not in page


def test_only_mistakes_are_among_the_most_wrong(at_stage: Callable[..., Study]) -> None:
    page, _ = written(at_stage(retrain, look))
    assert page.count('src="data:image/png;base64,') == 3  # the fourth kept image was right


def test_numbers_have_sensible_digits() -> None:
    assert percent(0.912364) == "91.24%"
    assert percent(None) == "-"
    assert interval([0.9, 0.95], 1) == "90.0 to 95.0%"
    assert (count(72666), count(None)) == ("72,666", "-")
    assert [short(n) for n in (999, 72666, 3154816, 2e9)] == ["999", "72.7 k", "3.15 M", "2 G"]
    assert [duration(s) for s in (9.81, 75, 3905)] == ["9.8 s", "1 min 15 s", "1 h 05 min"]
    assert plain("a|b\n<i>") == "a\\|b &lt;i&gt;"


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


def browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(browser() is None, reason="no Chromium here to open the page with")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_every_figure_without_an_error(
    at_stage: Callable[..., Study], tmp_path: Path, width: int
) -> None:
    page = write_report(at_stage(retrain, look))
    command = f"""{browser()} --headless --no-sandbox --disable-gpu --enable-logging=stderr
        --disable-background-networking --user-data-dir={tmp_path / "profile"}
        --window-size={width},900 --virtual-time-budget=60000 --dump-dom"""
    result = subprocess.run(
        [*command.split(), page.as_uri()], capture_output=True, text=True, timeout=150, check=True
    )
    assert 'data-figures="drawn"' in result.stdout
    figures = figures_of(page.read_text(encoding="utf-8"))
    assert result.stdout.count('data-drawn="') == len(figures)
    assert result.stdout.count('class="main-svg"') >= len(figures)
    assert ":CONSOLE" not in result.stderr
    assert "alert('x')" in re.sub(r"<script.*?</script>", "", result.stdout, flags=re.S)
