"""What the report tells of the end of a study: the race, the paired test, the classes, the seal."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import told_study
from told_study import compare, figures_of, look, race, retrain, written

from model.evaluate import wilson_interval
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study
from search.report.classes import f1_intervals
from search.report.facts import gather
from search.report.lineage import lineage_facts
from search.report.race import _intervals
from search.report.twin import _json


@pytest.fixture
def at_stage(tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a copy of the study, brought to a stage."""
    return partial(told_study.at_stage, tmp_path)


def test_the_race_is_told_with_why_it_ended_who_was_chosen_and_the_optimism(
    at_stage: Callable[..., Study],
) -> None:
    for content in written(at_stage(race, retrain, look, compare)):
        told = re.sub(r"<[^>]*>", "", content).replace("&#39;", "'").replace("\\_", "_")
        for words in (
            "The race of 2 finalists and 1 baseline ended after 3 of at most 5 rounds:"
            " going on would not matter.",
            "Chosen: t0004, because it is smaller",
            "The search saw 88.49% of t0008, its best; trained again it had 85.30% in the mean:"
            " the search was 3.19 points too high (optimism +3.19, 95% interval +1.02 to +5.36).",
            "Chosen by a race of 3 candidates: the smallest within one standard error of t0008,"
            " which has the highest mean.",
        ):
            assert words in told, words
    text = content  # the Markdown twin
    (chosen,) = [line for line in text.splitlines() if line.startswith("| t0004 | 85.23")]
    assert "| 0.700 | 86.16% | +0.93 | 2,500 | 4 | 85.10%, 85.80%, 84.80% | chosen |" in chosen
    (left,) = [line for line in text.splitlines() if line.startswith("| seed-32 (t0000) | 57")]
    assert "| 57.00%, - | after round 2: diverged in round 2" in left
    # In order of their means.
    order = re.findall(
        r"^\| (t0008|t0004|seed-32 \(t0000\)) \| \d\d\.\d\d% \| (?:\d\.\d\d|-) \|", text, re.M
    )
    assert order == ["t0008", "t0004", "seed-32 (t0000)"]


def test_the_figure_of_the_race_has_every_value_and_every_mean(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(race)
    figure = figures_of(written(study)[0])["race"]
    noted = study.noted("race")["candidates"]
    rounds = [x for part in figure["data"] if part["name"] == "one round" for x in part["x"]]
    known = [100 * v for row in noted for v in row["values"] if v is not None]
    assert sorted(rounds) == pytest.approx(sorted(known))
    (chosen,) = [part for part in figure["data"] if part["name"].startswith("chosen")]
    assert chosen["x"] == pytest.approx([100 * noted[1]["mean"]])
    (search,) = [part for part in figure["data"] if part["name"] == "the search's value"]
    assert search["marker"]["symbol"] == "diamond-open"
    assert sorted(search["x"]) == pytest.approx(sorted(100 * row["search_value"] for row in noted))
    # Each mean is joined to what the search had seen of it.
    (links,) = [part for part in figure["data"] if part["name"] == "optimism"]
    assert [x for x in links["x"] if x is not None] == pytest.approx(
        [
            100 * value
            for row in sorted(noted, key=lambda row: -row["mean"])
            for value in (row["mean"], row["search_value"])
        ]
    )
    # One name, one entry, however many parts are drawn for it.
    names = [entry["name"] for entry in figure["legend"]]
    assert len(names) == len(set(names))
    assert sum(len(entry["parts"]) for entry in figure["legend"]) == len(figure["data"])


def test_intervals_of_means_hold_what_they_say() -> None:
    draw = np.random.default_rng(0)
    held = []
    for _ in range(400):
        values = draw.normal([[0.9], [0.91], [0.92]], 0.003, size=(3, 4))
        for low_high, true in zip(_intervals(values.tolist()), (0.9, 0.91, 0.92), strict=True):
            assert low_high is not None
            held.append(low_high[0] <= true <= low_high[1])
    assert 0.93 < np.mean(held) < 0.97
    assert _intervals([[0.9], [0.8]]) == [None, None]
    assert _intervals([[0.9, 0.91], [None]])[1] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ended": "", "chosen": None, "rounds": 2}, "The race of 2 finalists and 1 baseline is"),
        ({"candidates": []}, "No race was run in this study"),
    ],
)
def test_a_race_that_is_not_over_or_was_not_run_is_said(
    at_stage: Callable[..., Study], change: dict[str, Any], said: str
) -> None:
    study = at_stage(race, retrain)
    study.note("race", study.noted("race") | change)
    page, text = written(study)
    assert said in page
    assert said in text
    assert "Chosen by a race" not in page


def test_the_paired_test_and_the_extra_rows_stand_beside_the_winner_not_in_its_place(
    at_stage: Callable[..., Study],
) -> None:
    page, text = written(at_stage(race, retrain, look, compare))
    for content in (page.replace("\u2011", "-").replace("&#39;", "'"), text):
        assert "on the same 200 test images: +4.24 points, 95% interval +3.10 to +5.38" in content
        assert "winner-s0 alone is right on 310 of them, seed-32-s0 alone on 190" in content
        assert "McNemar's exact test, p = 8.2e-08; chance hardly explains that." in content
        assert "Not the winner" in content
    winner, extras = page.index("winner (t0004)"), page.index('<tbody class="extras">')
    assert winner < extras < page.index("ensemble of 2 seeds</td>")
    assert '<div class="hero">91.24%</div>' in page  # not 91.77%, the ensemble's
    (figure,) = [f for name, f in figures_of(page).items() if name == "answer"]
    (part,) = [p for p in figure["data"] if p["name"].startswith("not the winner")]
    assert sorted(part["x"]) == pytest.approx([91.33, 91.77])
    assert part["marker"]["symbol"] != figure["data"][0]["marker"]["symbol"]


def test_a_difference_that_may_be_chance_is_called_so(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look, compare)
    content = read_metrics(study.folder / "final")
    content["comparison"] |= {"p_value": 0.34, "only_winner_right": 12, "only_baseline_right": 8}
    write_metrics(study.folder / "final", content)
    assert "p = 0.34; chance alone may explain that." in written(study)[1]


def test_who_was_raced_and_not_chosen_has_not_overtaken_the_winner(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(race, retrain, look, compare)
    assert gather(study)["winner"].name == "t0004"
    assert gather(study)["best"].name == "t0008"
    assert gather(study)["overtaken"] == ""
    study.note("race", None)
    assert "The retrained winner is t0004; since then t0008" in gather(study)["overtaken"]


def test_the_number_of_looks_stands_wherever_a_test_number_does(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(race, retrain, look, compare)
    page, text = written(study)
    for section in ("answer", "final"):
        (part,) = re.findall(rf'<section id="{section}">(.*?)</section>', page, re.S)
        assert "1 look at the test set</a>" in part
    assert text.count("1 look at the test set") >= 3
    # Opened, but nothing was seen: on record, and no look.
    study.record.add_look(reason="broke off", models=told_study.HASHES, broke_seal=False)
    facts = gather(study)
    assert (facts["num_looks"], len(facts["looks"]), facts["seal_broken"]) == (1, 2, False)
    assert "opened, but no number was seen" in written(study)[0]


def test_the_seals_record_names_the_models_by_their_hashes(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage(retrain, look))
    assert "winner-s0 <code>0123456789</code>" in page
    assert "winner-s0 0123456789, " in text
    assert "0123456789a" not in page + text  # a hash is told short


def test_intervals_of_f1_are_those_of_redrawn_images() -> None:
    confusion = [[90, 10, 0], [5, 45, 0], [0, 0, 7]]
    found = f1_intervals(confusion)
    cells = [(i, j) for i in range(3) for j in range(3) for _ in range(confusion[i][j])]
    draw, drawn = np.random.default_rng(1), []
    for _ in range(1000):
        images = np.array(cells)[draw.integers(len(cells), size=len(cells))]
        right = ((images[:, 0] == 1) & (images[:, 1] == 1)).sum()
        drawn.append(2 * right / ((images[:, 0] == 1).sum() + (images[:, 1] == 1).sum()))
    assert found[1] == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    assert found[2] == [1.0, 1.0]
    assert f1_intervals([[0, 5], [0, 0]]) == [[0.0, 0.0], [0.0, 0.0]]
    # Of two equal classes F1 is the accuracy of both: as wide as Wilson's, nearly.
    low, high = f1_intervals([[80, 20], [20, 80]])[0]
    assert high - low == pytest.approx(np.ptp(wilson_interval(80, 100)), rel=0.25)


def test_the_images_of_mistakes_are_those_of_the_model_that_is_described(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(retrain, look)
    content = read_metrics(study.folder / "final")
    content["models"] = content["models"][1:]  # the first seed diverged
    write_metrics(study.folder / "final", content)
    assert gather(study)["worst"] == []
    (study.folder / "final" / "winner-s0").rename(study.folder / "final" / "winner-s1")
    assert len(gather(study)["worst"]) == 3


def test_the_commands_are_those_of_the_study(
    at_stage: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = at_stage(race, retrain, look, compare)
    lines = [line for _, line in gather(study)["commands"]]
    assert f"python -m search resume small --runs {tmp_path}" in lines
    assert f"python -m search reproduce small t0004 --runs {tmp_path}" in lines
    assert f'python -m search evaluate small --break-seal "why" --runs {tmp_path}' in lines
    (again,) = [line for line in lines if "search run " in line]
    assert Path(shlex.split(again)[4]).read_text() == (study.folder / "config.yaml").read_text()
    # Where studies usually are, nothing is said of a folder.
    runs = tmp_path / "runs"
    runs.mkdir()
    study.folder.rename(runs / "small")
    monkeypatch.chdir(tmp_path)
    from search.record.study import open_study

    lines = [line for _, line in gather(open_study(runs / "small"))["commands"]]
    assert "python -m search run runs/small/config.yaml --name small-again" in lines
    assert "python -m search export small" in lines


def test_the_lineage_is_told_with_what_was_changed_and_why() -> None:
    lineage = {"parent": "one", "ancestors": ["one", "zero"], "generation": 3}
    lineage |= {"trials_taken": 12, "trials_left_out": 2, "left_out_why": {"another schedule": 2}}
    changes: list[dict[str, Any]] = [
        {"parameter": "learning_rate", "was": [0.01, 0.5], "is": [0.1, 0.9], "why": "at the edge"},
        {"parameter": "head", "was": ["a", "b", "c"], "is": "a", "why": ""},
    ]
    facts = lineage_facts({"lineage": lineage | {"changes": changes}})
    assert dict(facts["lineage_rows"]) == {
        "Parent": "one",
        "Ancestors": "one, zero",
        "Taken over": "12 trials as evidence",
        "Left out": "2 trials: another schedule",
    }
    assert [list(change.values()) for change in facts["lineage_changes"]] == [
        ["learning_rate", "0.01 to 0.5", "0.1 to 0.9", "at the edge"],
        ["head", "a, b, c", "a", "by hand"],
    ]
    assert lineage_facts({"lineage": {"parent": "one"}})["lineage_rows"] == [("Parent", "one")]
    assert lineage_facts({})["lineage"] is None


def test_the_json_twin_has_the_facts_of_the_page(at_stage: Callable[..., Study]) -> None:
    study = at_stage(race, retrain, look, compare)
    written(study)
    content = json.loads((study.folder / "report.json").read_text(encoding="utf-8"))
    facts = gather(study)
    assert content["answer"]["winner"] == "t0004"
    assert content["answer"]["rows"][0]["test_accuracy"] == 0.91236
    assert content["answer"]["extras"] == facts["extras"]
    assert content["answer"]["looks"] == 1
    assert [row["trial"] for row in content["trials"]] == [t.name for t in facts["ordered"]]
    best = content["trials"][0]
    assert max(v for v in best["curve"] if v is not None) == best["value"]
    assert content["race"]["candidates"][0]["ci95"] is not None
    assert content["race_words"] == facts["race_words"]
    assert content["classes"][0]["f1_ci95"] == facts["classes"][0]["f1_ci95"]
    assert content["seal"][0]["models"] == [list(pair) for pair in facts["looks"][0]["models"]]
    assert "png" not in content["most_wrong"][0]
    assert content["importance"] == facts["importance"]
    assert [row["name"] for row in content["parameters"]] == [a.name for a in facts["axes"]]
    assert content["next"] is None
    assert content["config"]["max_epochs"] == 4
    # What is not finite has no number in JSON.
    assert _json({1: (math.nan, 0.5, [-math.inf])}) == {"1": [None, 0.5, [None]]}


def test_the_json_twin_of_a_study_that_has_just_begun(at_stage: Callable[..., Study]) -> None:
    study = at_stage()
    study.set_state("stopped")
    written(study)
    content = json.loads((study.folder / "report.json").read_text(encoding="utf-8"))
    assert content["next"]["command"] == "python -m search resume small"
    assert (content["race"], content["models"], content["classes"]) == (None, [], [])
    assert content["answer"]["winner"] is None
