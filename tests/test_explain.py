"""`explain`: what is said of trials of all kinds, of real records with made-up epochs."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data.images import ImageShape
from model.train import EpochMetrics
from search.cli import app
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.explain.explain import explain, explanation_page
from search.explain.proposal import length_scales
from search.record.study import Study, StudyError

MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
TRACE = "Traceback (most recent call last):\n  File \x1b[2J\nValueError: too small\n"


@pytest.fixture
def play(shape: ImageShape, make_epoch: MakeEpoch) -> Callable[..., Driver]:
    """Return a function that searches in one slot until the script of accuracies ends.

    `curves` gives the accuracies of each trial by number; in place of one, `lost` and `failed`.
    """

    def run(study: Study, curves: dict[int, list[float | str]], **more: Any) -> Driver:
        driver = Driver(study, shape=shape, slots=1, **more)
        while (assignment := driver.next()) is not None:
            trial, steps = assignment.trial, curves.get(assignment.trial, [])
            driver.place(trial, node="host-a", pid=77)
            for epoch in range(assignment.from_epoch + 1, study.config.max_epochs + 1):
                if not steps:
                    return driver  # the script ends here, with a trial in flight
                step = steps.pop(0)
                if step == "lost":
                    driver.on_failure(
                        trial, Failure(kind="worker lost", reason="the worker process died")
                    )
                    break
                if step == "failed":
                    driver.on_failure(
                        trial, Failure(kind="bug", reason=TRACE.splitlines()[-1], trace=TRACE)
                    )
                    break
                if driver.on_epoch(trial, make_epoch(epoch, float(step))).action == "stop":
                    break
        return driver

    return run


def told(study: Study, trial: str, width: int = 200) -> str:
    """Return an explanation as plain text, one line a sentence."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=width, _environ={})
    console.print(explanation_page(explain(study, trial)))
    return file.getvalue()


STOPPING = {"form": "stopping", "min_competitors": 2, "reduction_factor": 2}


def test_a_stopped_trial_is_told_from_proposal_to_end(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    study = make_study(max_epochs=3, asha=STOPPING, budget={"trials": 5})
    play(study, {0: [0.8, 0.9, 0.85], 1: [0.7, 0.8, 0.88], 2: [0.5], 3: [0.75, 0.8, 0.81]})
    text = told(study, "2")
    for said in (
        r"t0002 of small - pruned",
        r"Result +50\.00 % in epoch 1; trained for 1 of 3 epochs\. Rank 4 of 4 trials with a"
        r" value, 40\.00 points behind t0000\.",
        r"Proposed +The sampler spreads its first 4 trials evenly over the space, before there is a"
        r" model; this is number 3 of them \(Sobol\)\.",
        r"The proposal took \d+ ms\.",
        r"Network +\d+(-\d+)? k3 bn: [\d,]+ parameters, \d+\.\d\d million multiply-adds an image\.",
        r"Recipe: sgd, learning rate [\d.]+ \(one-cycle\), batches of 256, weight decay 0\.",
        r"Rungs +Epoch 1: stopped with 50\.00 %, where 70\.00 % was needed: rank 3 of 3 at the rung"
        r" of 1 epoch; the best 2 go on\.",
        r"Epochs +Validation accuracy in percent: 1: 50\.00\.",
        r"Attempts +1, on host-a \(process 77\): epoch 1 in 0 s; pruned\.",
        r"End +ASHA stopped it: rank 3 of 3 at the rung of 1 epoch; the best 2 go on\.",
    ):
        assert re.search(said, text), f"{said}\n{text}"
    assert "It is the best of 4 trials with a value" in told(study, "t0000")
    assert "Complete: trained for all 3 epochs." in told(study, "0")


def test_a_trial_judged_again_is_told_so(
    make_study: MakeStudy, shape: ImageShape, make_epoch: MakeEpoch
) -> None:
    study = make_study(asha=STOPPING | {"reduction_factor": 3})
    driver = Driver(study, shape=shape, slots=4)
    for value in (0.7, 0.6, 0.8, 0.9):
        assignment = driver.next()
        assert assignment is not None
        driver.on_epoch(assignment.trial, make_epoch(1, value))
    driver.on_epoch(1, make_epoch(2, 0.95))
    assert (
        "Judged again after epoch 2: stopped by its 60.00 % at the rung, where 80.00 % was needed:"
        " rank 4 of 4 at the rung of 1 epoch; the best 2 go on."
    ) in told(study, "1")


def test_the_model_tells_what_it_rested_on_and_expected(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    study = make_study(max_epochs=2, asha={"enabled": False}, budget={"trials": 12})
    play(study, {n: [0.5 + 0.03 * n, 0.6 + 0.03 * n] for n in range(11)} | {3: [math.nan]})
    trials = [t for t in study.trials() if t.proposal["by"] == "model" and t.outcome == "complete"]
    assert len(trials) >= 3
    trial = trials[-1]
    basis, text = trial.proposal, told(study, trial.name)
    earlier = [t for t in study.trials()[: trial.number] if t.outcome == "complete"]
    assert basis["observations"] == len(earlier)
    assert (
        f"It rests on {len(earlier)} trials with values, brought to the scale of 2 epochs; 1 that"
        " could not be trained, as the worst there is."
    ) in text
    value = trial.value or 0.0
    gap = (value - basis["expected"]) / basis["deviation"]
    assert (
        f"The model expected {100 * basis['expected']:.2f} % +- {100 * basis['deviation']:.2f}"
        f" points after 2 epochs; the best it knew of was {100 * basis['best']:.2f} %. It got"
        f" {100 * value:.2f} %: {abs(gap):.1f} deviations {'above' if gap >= 0 else 'below'}."
    ) in text
    near = basis["near"]
    place = "not near one of" if near is None else f"drawn near t{near:04d}, one of the best then:"
    assert place in text


def test_what_lies_near_another_trial_is_told_by_what_differs(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    study = make_study(max_epochs=1, budget={"trials": 25})
    play(study, {n: [0.5 + 0.01 * (n % 7)] for n in range(25)})
    near = [t for t in study.trials() if t.proposal.get("near") is not None]
    assert near
    frozen = study.optuna.get_trials()
    for trial in near:
        mine, parent = frozen[trial.number].params, frozen[trial.proposal["near"]].params
        moved = {name for name in mine if parent.get(name) != mine[name]}
        (line,) = re.findall(r"one of the best then: (.*)\.", told(study, trial.name, width=400))
        assert {part.split()[0] for part in line.split("; ")} == moved


def test_length_scales_are_told_by_parameter_the_shortest_first(make_study: MakeStudy) -> None:
    space = {
        "num_blocks": {"int": [1, 2]},
        "filters": {"choice": [4, 8, 16], "per_block": True},
        "learning_rate": {"float": [0.001, 0.5], "log": True},
        "schedule": {"choice": ["one-cycle", "cosine", "constant"]},
    }
    study = make_study(space=space)
    # Columns: filters_1, filters_2, learning_rate, num_blocks, and three of the schedule.
    basis = {"lengthscales": [0.9, 0.8, 0.1, 1.5, 2.0, 0.3, 2.0], "noise": 0.1}
    assert length_scales(study, basis) == {
        "learning_rate": 0.1,
        "schedule": 0.3,
        "filters_2": 0.8,
        "filters_1": 0.9,
        "num_blocks": 1.5,
    }
    assert length_scales(study, {"by": "start"}) == {}


@pytest.mark.parametrize(
    ("changes", "trial", "said"),
    [
        ({"baselines": ["seed-32"]}, "0", r"It is the baseline seed-32: every study runs its base"),
        (
            {"points": [{"learning_rate": 0.1, "num_blocks": 1}]},
            "0",
            r"It is point 1 of the study file: .+ It leaves filters_1 open; the sampler proposed ",
        ),
        (
            {"points": [{"learning_rate": 0.1, "num_blocks": 1, "filters_1": 4}]},
            "0",
            r"It is point 1 of the study file: points are tried after the baselines, as they are\.",
        ),
        ({"sampler": {"kind": "tpe", "startup_trials": 3}}, "1", r"TPE .+ first 3 proposals are r"),
        ({"sampler": {"kind": "random"}}, "1", r"drawn anywhere in the space, as all trials of th"),
        (
            {"space": {"filters": {"choice": [4, 8]}, "learning_rate": 0.1}},
            "2",
            r"Hardly anything new is left to try: it is t000[01]'s configuration again, with a",
        ),
    ],
)
def test_every_origin_is_told(
    make_study: MakeStudy,
    play: Callable[..., Driver],
    changes: dict[str, Any],
    trial: str,
    said: str,
) -> None:
    study = make_study(max_epochs=1, budget={"trials": 3}, **changes)
    play(study, {n: [0.5 + 0.1 * n] for n in range(3)})
    text = told(study, trial)
    assert re.search(said, text), text


def test_every_kind_of_end_is_told(make_study: MakeStudy, play: Callable[..., Driver]) -> None:
    study = make_study(
        baselines=["seed-64"],
        limits={"parameters": 20_000},
        max_epochs=2,
        asha={"form": "stopping"},
        budget={"epochs": 6},
    )
    play(study, {1: [0.5, math.nan], 2: [0.6, "failed"], 3: ["lost", 0.6, 0.7], 4: [0.7]})
    refused = told(study, "0")
    assert "Result    It has no value." in refused
    assert "End       Refused before training: 347114 parameters, but at most 20000" in refused
    assert "Attempts" not in refused and "Rungs" not in refused
    diverged = told(study, "1")
    assert "Infeasible: diverged: the loss is not finite at epoch 2." in diverged
    assert "Not ranked: it is infeasible and cannot win." in diverged
    assert "in percent: 1: 50.00, 2: -." in diverged
    failed = told(study, "2")
    assert "End       Failed (bug): ValueError: too small." in failed
    assert "see it with: reproduce small t0002" in failed
    assert "Traceback (most recent call last):" in failed
    assert "\x1b" not in failed
    lost = told(study, "3")
    assert "1, on host-a (process 77): no epoch in 0 s; lost: the worker process died." in lost
    assert "2, on host-a (process 77): epochs 1 to 2 in 0 s; complete." in lost
    assert "It was cut short: the budget ended: 6 epochs." in told(study, "4")


def title(study: Study, wanted: str) -> str:
    """Return the word after the trial's name in the title of its page."""
    return told(study, wanted).splitlines()[0].partition(" - ")[2].split()[0]


def test_paused_and_promoted_trials_are_told_with_what_they_wait_for(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "promotion", "min_competitors": 1, "reduction_factor": 2}
    study = make_study(max_epochs=3, asha=asha, budget={"trials": 4})
    play(study, {0: [0.5], 1: [0.4], 2: [0.45]})
    # The first was promoted when the second had come, and trains on; there its script ends.
    promoted = told(study, "0")
    assert re.search(r"Rungs +Epoch 1: paused with 50\.00 %: .+; waits for promotion\.", promoted)
    assert re.search(r"Later promoted with 50\.00 %, where 50\.00 % was needed: rank 1", promoted)
    assert "2, on host-a (process 77) from its checkpoint: no epoch; not over." in promoted
    waits = "It waits, paused after epoch 1, to be promoted"
    study.set_state("searching")
    assert f"Now       {waits}, once the study goes on: resume small." in told(study, "1")
    assert [title(study, trial) for trial in "01"] == ["unfinished", "paused"]
    session = study.sessions.start("search", host=platform.node(), pid=os.getpid())
    assert f"Now       {waits}." in told(study, "1")
    assert "Now       Epoch 2 of 3 is being trained." in told(study, "0")
    assert [title(study, trial) for trial in "01"] == ["running", "paused"]
    study.sessions.end(session)
    play(study, {0: [0.6, 0.7], 2: [0.5, 0.6], 3: [0.41]})
    end = [t for t in study.trials() if t.reason.startswith("never promoted")]
    assert end
    assert "It was paused and the study ended: never promoted: rank" in told(study, end[0].name)


def test_an_audited_trial_is_told_what_it_has_shown(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "stopping", "audit_share": 1.0, "min_competitors": 1}
    study = make_study(asha=asha, max_epochs=2, budget={"trials": 4})
    play(study, {0: [0.5, 0.80], 1: [0.5, 0.81], 2: [0.1, 0.95], 3: [0.2, 0.7]})
    text = told(study, "2")
    assert "ASHA would have stopped it after epoch 1. It ran on all the same, as 100 % of" in text
    assert "It ended above the best of the others (81.00 %): a false stop." in text
    assert "It is at least as good as the median of those that went on (80.50 %)." in text
    text = told(study, "3")
    assert "It stayed below the best of the others (81.00 %)." in text
    assert "It is below the median of those that went on (80.50 %)." in text
    assert "ASHA would have" not in told(study, "0")


def test_brackets_and_studies_without_rungs_are_told(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "promotion", "brackets": 2}
    study = make_study(asha=asha, max_epochs=9, budget={"trials": 8})
    play(study, {n: [0.5 - 0.01 * n] * 3 for n in range(8)})
    said = r"drawn into bracket (\d), whose first rung is at (\S+ \S+)\."
    found = {re.findall(said, told(study, trial.name))[0] for trial in study.trials()}
    assert found == {("0", "1 epoch"), ("1", "3 epochs")}
    off = make_study("off", asha={"enabled": False}, max_epochs=1, budget={"trials": 1})
    play(off, {0: [0.5]})
    assert "There are none: ASHA is off" in told(off, "0")
    assert "No other trial has a value" in told(off, "0")


@pytest.mark.parametrize("wanted", ["3", "t0003", "-1", "seventeen", "t"])
def test_a_trial_that_is_not_there_is_refused_with_what_there_is(
    make_study: MakeStudy, play: Callable[..., Driver], wanted: str
) -> None:
    study = make_study(max_epochs=1, budget={"trials": 3})
    with pytest.raises(StudyError, match=r"small has no trials yet; see `status small`"):
        explain(study, wanted)
    play(study, {n: [0.5] for n in range(3)})
    said = rf"small has no trial '{wanted}'; give one of t0000 to t0002 \(2 is t0002\)"
    with pytest.raises(StudyError, match=said):
        explain(study, wanted)


def test_the_page_keeps_to_80_columns_and_shows_what_people_wrote_as_it_is(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    study = make_study(max_epochs=1, budget={"trials": 6})
    driver = play(study, {0: [0.5]})
    driver.on_failure(
        1,
        Failure(
            kind="bug",
            reason="ValueError: [bold]odd[/] shape",
            trace="Traceback\nValueError: [bold]odd[/] shape",
        ),
    )
    text = told(study, "1", width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "ValueError: [bold]odd[/] shape" in text


def test_the_command_prints_a_page_or_json_without_ray(
    make_study: MakeStudy, play: Callable[..., Driver], tmp_path: Path
) -> None:
    study = make_study(max_epochs=1, budget={"trials": 6})
    play(study, {n: [0.5 + 0.1 * n] for n in range(6)})
    place = ["small", "t5", "--runs", str(tmp_path)]
    done = CliRunner().invoke(app, ["explain", *place, "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["trial"] == "t0005"
    assert (content["outcome"], content["rank"], content["of"]) == ("complete", 1, 6)
    assert content["proposal"] == study.trial(5).proposal
    assert content["configuration"] == study.trial(5).configuration
    assert content["sections"]["End"] == ["Complete: trained for its 1 epoch."]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom search.cli import app\n"
        f"done = CliRunner().invoke(app, {['explain', *place]})\n"
        "assert 'Result' in done.stdout, done.output\nprint('ray' in sys.modules)"
    )
    done_outside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done_outside.stdout == "False\n", done_outside.stderr
