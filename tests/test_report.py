"""The report of a study at every stage: what it says, and that it stays one file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import told_study
from told_study import (
    DATA,
    EVIL,
    SECTIONS,
    compare,
    figures_of,
    look,
    make_config,
    race,
    retrain,
    written,
)

from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, StudyError, create
from search.report.facts import gather
from search.report.formats import count, duration, interval, percent, plain, short
from search.report.report import write_report


@pytest.fixture
def at_stage(tmp_path: Path) -> Callable[..., Study]:
    """Return a function that makes a copy of the study, brought to a stage."""
    return partial(told_study.at_stage, tmp_path)


def test_every_section_stands_in_both_files_answer_first(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage(retrain, look))
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(SECTIONS)
    assert re.findall(r"^## (.*)$", text, re.M) == list(SECTIONS)
    for content in (page, text):
        assert "91.24%" in content  # the mean of the winner's seeds
        assert "90.65 to 91.80%" in content
        assert "4.24 points above the best baseline" in content
        assert "ab" * 32 in content  # the data's fingerprint


def test_what_people_wrote_is_shown_and_not_obeyed(at_stage: Callable[..., Study]) -> None:
    page, text = written(at_stage(race, retrain, look, compare))
    assert EVIL not in page
    assert "<script" not in text.partition("config.yaml, as resolved")[0]
    # Shown in the origin, a class, a failure, a lost worker, the look and its models, the
    # environment, the race's reasons, an extra row.
    assert page.count(html.escape(EVIL).replace("&#x27;", "&#39;")) >= 10
    plots = json.dumps(figures_of(page))
    assert "<script" not in plots
    assert "&lt;script&gt;" in plots  # Plotly reads HTML in labels
    assert "a\\|b \\`c\\`" in text  # a cell of a Markdown table stays one cell
    rows = [line for line in text.splitlines() if line.startswith("| shirt")]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 9


def test_drawn_images_are_announced_and_not_compared_with_published_numbers(
    at_stage: Callable[..., Study],
) -> None:
    page, text = written(at_stage(retrain, look))
    assert 'class="banner" role="alert">Not real data' in page
    assert "> **Not real data" in text
    assert "Published" not in page.partition("<tbody>")[0]
    assert "| published |" not in text
    assert "published, one" not in json.dumps(figures_of(page))


def test_a_substitution_is_announced_with_its_reason(at_stage: Callable[..., Study]) -> None:
    study = at_stage(retrain, look)
    study.note("data", DATA | {"name": "fashion-mnist", "synthetic": False})
    study.note("substitution", "drawn images stand in for fashion-mnist: no network")
    page, _ = written(study)
    assert "Not real data: drawn images stand in for fashion-mnist: no network" in page
    assert "Published" not in page.partition("<tbody>")[0]


def test_real_images_are_compared_with_the_published_numbers(
    at_stage: Callable[..., Study],
) -> None:
    study = at_stage(retrain, look)
    study.note("data", DATA | {"name": "fashion-mnist", "synthetic": False})
    page, text = written(study)
    assert 'class="banner"' not in page
    assert "Published" in page.partition("<tbody>")[0]
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
    assert 'class="missing"' not in written(study)[0].partition('id="leaderboard"')[0]


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
