"""The tables of studies, of a real record with made-up epochs."""

from __future__ import annotations

import io
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from data.images import ImageShape
from model.train import EpochMetrics
from search.drive.driver import Driver
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, best_of
from search.screen.result import summarise
from search.screen.status import status_table, studies_table
from search.screen.summary import outcome, summary

MakeStudy = Callable[..., Study]
FACTS = {"name": "fashion-mnist", "train_images": 54000, "validation_images": 6000}
CURVES = [[0.80, 0.85, 0.88], [0.81, 0.86, 0.8912], [0.70], [0.85, 0.90, 0.9234], [0.86, 0.89]]


def drawn(content: RenderableType) -> str:
    """Return a renderable as plain text of 80 columns."""
    file = io.StringIO()
    Console(file=file, force_terminal=False, width=80, _environ={}).print(content)
    return file.getvalue()


@pytest.fixture
def study(
    make_study: MakeStudy, shape: ImageShape, make_epoch: Callable[..., EpochMetrics]
) -> Study:
    """Return a study of two baselines and three trials, searched but for its last epoch."""
    made = make_study(
        "shown",
        baselines=["seed-32", "seed-64-dropout"],
        max_epochs=3,
        asha={"form": "stopping", "min_competitors": 2},
        budget={"trials": 5},
    )
    made.note("data", FACTS)
    made.set_state("searching")
    driver = Driver(made, shape=shape, slots=1)
    for curve in CURVES:
        assignment = driver.next()
        assert assignment is not None
        for epoch, value in enumerate(curve, start=1):
            driver.on_epoch(assignment.trial, make_epoch(epoch, value))
    return made


def finish(study: Study) -> None:
    """Write what a retrain and a look at the test set leave behind."""
    groups = {"winner": (0.9312, 3), "seed-32": (0.9012, 1), "seed-64-dropout": (0.92, 1)}
    best = best_of(study.trials())
    assert best is not None
    metrics = {
        "winner_trial": best.name,
        "test_images": 10000,
        "models": [{"group": name, "epochs": 3, "train_accuracy": 0.95} for name in groups],
        "groups": {
            name: {
                "seeds": seeds,
                "test_accuracy": value,
                "test_accuracy_std": 0.0012 if seeds > 1 else None,
                "ci95": [value - 0.005, value + 0.005],
            }
            for name, (value, seeds) in groups.items()
        },
    }
    (study.folder / "final").mkdir()
    write_metrics(study.folder / "final", metrics)
    study.record.end_look(
        study.record.add_look(reason="final evaluation", models="{}", broke_seal=False),
        result="{}",
    )
    study.set_state("finished")


def test_status_shows_a_search_of_another_process(study: Study) -> None:
    session = study.sessions.start("search", host=platform.node(), pid=os.getpid())
    text = drawn(status_table(study))
    assert "shown - searching " in text
    assert re.search(r"Trials +1 running, 3 complete, 1 pruned ", text), text
    assert re.search(r"1  t0004 +2/3 .+ 89\.00 % +1,000 ", text), text
    # The same, but its process is gone: nothing runs.
    study.sessions.end(session)
    study.sessions.start("search", host=platform.node(), pid=2**22 + 1)
    text = drawn(status_table(study))
    assert "shown - interrupted while searching " in text
    assert "Slot" not in text
    assert re.search(r"Trials +1 unfinished, 3 complete, 1 pruned ", text), text


def test_paused_trials_are_counted_apart_in_status_and_its_json(
    make_study: MakeStudy, shape: ImageShape, make_epoch: Callable[..., EpochMetrics]
) -> None:
    study = make_study(max_epochs=3, asha={"form": "promotion"}, budget={"trials": 9})
    study.note("data", FACTS)
    driver = Driver(study, shape=shape, slots=2)
    assert driver.next() is not None
    for trial in (1, 2):
        assert driver.next() is not None
        driver.on_epoch(trial, make_epoch(1, 0.5))
    study.set_state("searching")
    text = drawn(status_table(study))
    assert re.search(r"Trials +2 paused, 1 unfinished ", text), text
    counts = summarise(study)["trials"]
    assert (counts["running"], counts["paused"], counts["unfinished"]) == (0, 2, 1)
    study.sessions.start("search", host=platform.node(), pid=os.getpid())
    assert re.search(r"Trials +1 running, 2 paused ", drawn(status_table(study)))
    counts = summarise(study)["trials"]
    assert (counts["running"], counts["paused"], counts["unfinished"]) == (1, 2, 0)


def test_all_studies_have_a_line_and_a_broken_one_its_reason(
    study: Study, make_study: MakeStudy, tmp_path: Path
) -> None:
    make_study("other").note("data", FACTS | {"name": "synthetic", "synthetic": True})
    finish(study)
    (tmp_path / "broken").mkdir()
    text = drawn(studies_table([tmp_path / name for name in ("broken", "other", "shown")]))
    assert re.search(r"^other +created +synthetic +0 +- +- +- +-$", text, re.MULTILINE), text
    assert re.search(
        r"^shown +finished +fashion-mnist +5 +92\.34 % +93\.12 % +0\.50 +1$", text, re.M
    )
    assert re.search(r"broken: \S+ holds no study", " ".join(text.split()))
    assert "python -m search run" in drawn(studies_table([]))


def test_the_summary_gives_the_answer_and_where_everything_is(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.search(r"Test +not measured: there are no retrained models", drawn(summary(study)))
    finish(study)
    (study.folder / "report.html").touch()
    monkeypatch.chdir(study.folder.parent)
    text = drawn(summary(study))
    assert all(len(line) <= 80 for line in text.splitlines())
    for fact in (
        r"Test +93\.12 %, 95 % interval 92\.62 to 93\.62; 3 seeds, 10,000 test images",
        r"Looks +1 look at the test set +\u2502",
        r"winner +93\.12 % +92\.62 to 93\.62 +0\.12 +3 +\u2502",
        r"seed-32 +90\.12 % +89\.62 to 90\.62 +- +1 +\+3\.00 points",
        r"seed-64-dropout +92\.00 % +.+ \+1\.12 points",
        r"Winner +t0003 \(sampler\), validation accuracy 92\.34 %",
        r"Cost +[\d,]+ parameters, \d+\.\d\d million multiply-adds an image",
        r"Search +5 trials, 12 epochs in ",
        r"Report +shown/report\.html\n",
        r"TensorBoard +tensorboard --logdir shown\n",
    ):
        assert re.search(fact, text), f"{fact}\n{text}"
    assert "export" not in text  # nothing was exported
    status = drawn(status_table(study))
    assert "Slot" not in status
    assert status.endswith(text)  # of a finished study, how it stands is what it found
    study.record.end_look(
        study.record.add_look(reason="again", models="{}", broke_seal=True),
        result="{}",
    )
    assert "2 looks at the test set; the seal was BROKEN" in drawn(summary(study))


def race(study: Study, *, ended: str) -> None:
    """Note a race of two finalists and a baseline, as `search.final.finalists` does."""
    rows = [("t0004", 3, 0.81), ("t0003", 3, 0.17), ("seed-32", 2, None)]
    candidates = [
        {"name": name, "kind": "baseline" if "seed" in name else "finalist", "trial": name}
        | {"parameters": 1000 * rounds, "epochs": 3, "search_value": 0.9234}
        | {"values": [0.91] * rounds, "mean": 0.91 + rounds / 1000, "sd": 0.0021, "se": 0.0011}
        | {"p_best": chance, "optimism": 0.004, "left_after": 2 if chance is None else None}
        | {"why_left": "", "adjusted_mean": 0.91}
        for name, rounds, chance in rows
    ]
    optimism = {"trial": "t0003", "search_value": 0.9234, "remeasured": 0.9187}
    study.note(
        "race",
        {"candidates": candidates, "rounds": 3, "max_rounds": 5, "ended": ended}
        | {"chosen": "t0004" if ended else None, "leader": "t0003", "reason": "it is smaller"}
        | {"optimism": optimism | {"optimism": 0.0047, "ci95": [-0.001, 0.0104]}},
    )


def test_the_summary_tells_the_race_the_paired_test_and_what_is_not_the_winner(
    study: Study,
) -> None:
    finish(study)
    race(study, ended="all rounds were done")
    metrics = read_metrics(study.folder / "final")
    metrics["comparison"] = {
        "baseline": "seed-64-dropout",
        "models": ["winner-s0", "seed-64-dropout-s0"],
        "only_winner_right": 310,
        "only_baseline_right": 190,
        "p_value": 8.24e-8,
        "difference": 0.012,
        "ci95": [0.0075, 0.0164],
    }
    metrics["extras"] = [
        {"name": "ensemble of 3 seeds", "kind": "ensemble", "test_accuracy": 0.9388}
        | {"ci95": [0.934, 0.943]}
    ]
    metrics["winner_trial"] = "t0004"  # chosen by the race, though not the search's best
    write_metrics(study.folder / "final", metrics)
    text = drawn(summary(study))
    for fact in (
        r"Test +93\.12 %",
        r"Paired +\+1\.20 points against seed-64-dropout, 95 % interval \+0\.75 to \+1\.64",
        r"McNemar +p = 8\.2e-08: winner-s0 alone is right on 310 images,",
        r"Not the winner: its answers averaged +Test +95 % interval",
        r"ensemble of 3 seeds +93\.88 % +93\.40 to 94\.30",
        r"Winner +t0004 \(sampler\), validation accuracy 89\.00 %",
        r"Chosen +t0004: a race of 3, 3 rounds +│",
        r"it is smaller",
        r"Optimism +\+0\.47 points, 95 % interval -0\.10 to \+1\.04: the search saw 92\.34 %",
    ):
        assert re.search(fact, text), f"{fact}\n{text}"
    assert text.index("Winner leads") < text.index("Not the winner") < text.index("Winner  ")
    write_metrics(study.folder / "final", metrics | {"winner_trial": "t0003"})
    later = drawn(summary(study))  # the study was extended, and raced again, but not retrained yet
    assert re.search(r"Chosen +t0004 since then; `resume` retrains it", later)
    assert "P(best)" not in later


def test_who_asked_for_quiet_is_told_the_outcome_on_one_line(study: Study) -> None:
    assert outcome(study) == (
        "shown: test accuracy not measured: there are no retrained models yet;"
        " best validation accuracy 92.34 % by t0003"
    )
    finish(study)
    assert outcome(study) == (
        "shown: test accuracy 93.12 %, 95 % interval 92.62 to 93.62, by t0003;"
        " 1 look at the test set"
    )
    study.note("data", FACTS | {"synthetic": True})
    caution, _ = outcome(study).splitlines()
    assert caution.startswith("CAUTION: synthetic images")


def test_status_tells_the_stage_after_the_search_and_how_the_finalists_stand(study: Study) -> None:
    study.set_state("searched")
    race(study, ended="")
    text = drawn(status_table(study))
    assert "shown - searched " in text
    session = study.sessions.start("race", host=platform.node(), pid=os.getpid())
    text = drawn(status_table(study))
    assert "shown - searched; racing the finalists " in text
    assert "finalists - 3 rounds of at most 5 " in text
    assert re.search(r"t0004 +3 +91\.30 % +0\.21 +0\.81 +92\.34 % +3,000", text), text
    assert re.search(r"seed-32 +2 +91\.20 % +0\.21 +- +92\.34 % +2,000  left after", text), text
    race(study, ended="all rounds were done")
    study.sessions.end(session)
    text = drawn(status_table(study))
    assert "shown - searched " in text
    assert "finalists - 3 rounds of at most 5, t0004 is chosen " in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_name_of_the_data_is_shown_as_it_is(study: Study) -> None:
    study.note("data", FACTS | {"name": "my [red]data[/]"})
    assert "my [red]data[/]: 54,000 images" in drawn(status_table(study))
    assert "my [red]data[/]" in drawn(studies_table([study.folder]))


def test_data_that_are_not_what_was_asked_for_are_said_first(study: Study) -> None:
    study.note("data", FACTS | {"name": "synthetic", "synthetic": True})
    for table in (status_table, summary):
        assert re.search(r"CAUTION +synthetic images: the accuracies say", drawn(table(study)))
    study.note("substitution", "drawn images stand in for fashion-mnist: [no] internet")
    for table in (status_table, summary):
        assert re.search(r"CAUTION +not the data asked for: drawn images", drawn(table(study)))
        assert "[no] internet" in drawn(table(study))
