"""What people see of a search, by hand: a real driver and record, made-up epochs, no training."""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from data.images import ImageShape
from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.record.study import Study
from search.record.view import View
from search.screen.progress import Screen
from search.screen.screen import frame
from search.screen.time_left import seconds_left

MakeStudy = Callable[..., Study]
MakeEpoch = Callable[..., EpochMetrics]
BASELINES = ["seed-32", "seed-64-dropout"]
FACTS = {"name": "fashion-mnist", "train_images": 54000, "validation_images": 6000}
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def make_console(*, terminal: bool, width: int = 80, height: int = 60) -> Console:
    """Return a console that writes to memory, whatever the environment says."""
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, _environ={}
    )


def written(console: Console) -> str:
    """Return what a console has written, control codes included."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(content: RenderableType, width: int = 80) -> str:
    """Return a renderable as plain text."""
    console = make_console(terminal=False, width=width)
    console.print(content)
    return written(console)


@pytest.fixture
def play(shape: ImageShape, make_epoch: MakeEpoch) -> Callable[..., Driver]:
    """Return a function that searches: `curves` gives the accuracies of each trial by number."""

    def run(
        study: Study, curves: dict[int, list[float]], *observers: Any, slots: int = 2
    ) -> Driver:
        study.set_state("searching")
        driver = Driver(study, shape=shape, slots=slots, observers=observers)
        queue = []
        while True:
            while (assignment := driver.next()) is not None:
                queue.append((assignment.trial, assignment.from_epoch))
            if not queue:
                return driver
            trial, epoch = queue.pop(0)
            if epoch == len(curves.get(trial, [])):
                return driver  # the script ends here, with trials in flight
            value = curves[trial][epoch]
            if driver.on_epoch(trial, make_epoch(epoch + 1, value)).action == "continue":
                queue.append((trial, epoch + 1))

    return run


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """Return a study of two baselines and eight trials on three epochs, with rungs at 1."""
    asha = {"form": "stopping", "min_competitors": 1, "reduction_factor": 3}
    made = make_study("shown", baselines=BASELINES, max_epochs=3, asha=asha, budget={"trials": 8})
    made.note("data", FACTS)
    return made


CURVES = {
    0: [0.80, 0.85],
    1: [0.81, 0.86, 0.8912],
    2: [0.70],
    3: [0.85, 0.90, 0.9234],
    4: [0.60],
    5: [float("nan")],
    6: [0.86, 0.89, 0.91],
    7: [0.61],
}
"""The accuracies of each trial's epochs, by number: as many as ASHA lets it train."""


def last_frame(console: Console) -> str:
    """Return the last frame drawn in a terminal as plain text."""
    text = CODES.sub("", written(console))
    return text[text.rindex("\u256d") :]  # the corner at the top left


def search_in(console: Console, study: Study, play: Callable[..., Driver], **more: Any) -> None:
    """Search with a screen on `console` until the budget is spent."""
    with Screen(study, console=console, **more) as screen:
        driver = play(study, CURVES, screen)
        study.set_state("stopped" if driver.interrupted else "searched")


def test_a_log_has_a_line_an_event_and_no_control_codes(
    study: Study, play: Callable[..., Driver]
) -> None:
    console = make_console(terminal=False)
    search_in(console, study, play)
    assert "\x1b" not in written(console)
    lines = written(console).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)
    told = [line[20:] for line in lines]
    assert told[0] == (
        "shown, fashion-mnist: 54,000 images to train on, 6,000 to score on; budget: 8 trials"
    )
    assert (
        "t0001 starts (baseline seed-64-dropout): 64 k3 valid dense 32 block-drop 0.25,"
        " 347,114 parameters"
    ) in told
    assert (
        "t0002 pruned after 1 epoch, validation 70.00 %: rank 3 of 3 at the rung of 1 epoch;"
        " only the best goes on"
    ) in told
    assert (
        "t0003 complete after 3 epochs, validation 92.34 %: trained for all 3 epochs;"
        " the best so far"
    ) in told
    assert ("t0005 infeasible after 1 epoch: diverged: the loss is not finite at epoch 1") in told
    assert any(line.startswith("t0003 passes a rung with 85.00 %: rank 1 of") for line in told)
    assert told[-1].startswith("shown searched: 3 complete, 4 pruned, 1 infeasible; 15 epochs in ")
    assert told[-1].endswith(
        "; best validation accuracy 92.34 % by t0003 (sampler),"
        " best baseline 89.12 % by seed-64-dropout"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_only_how_it_ended(
    study: Study, play: Callable[..., Driver], terminal: bool
) -> None:
    console = make_console(terminal=terminal)
    search_in(console, study, play, verbosity="quiet")
    (line,) = written(console).splitlines()
    assert "shown searched: 3 complete, 4 pruned, 1 infeasible" in line


def test_verbose_adds_a_line_an_epoch(study: Study, play: Callable[..., Driver]) -> None:
    console = make_console(terminal=False)
    search_in(console, study, play, verbosity="verbose")
    epochs = [line for line in written(console).splitlines() if re.search(r" t\d+ epoch ", line)]
    assert len(epochs) == sum(len(curve) for curve in CURVES.values())
    assert epochs[-1].endswith(
        ": validation 91.00 %, loss 0.6000; training 80.00 %, loss 0.5000; 1,000 images/s"
    )


def test_a_terminal_shows_the_search_in_80_columns(
    study: Study, play: Callable[..., Driver]
) -> None:
    console = make_console(terminal=True)
    search_in(console, study, play)
    text = last_frame(console)
    assert all(len(line) <= 80 for line in text.splitlines())
    for fact in (
        r"shown - searched",
        r"Data +fashion-mnist: 54,000 images to train on, 6,000 to score on",
        r"Budget +\S+ +8 of 8 trials",
        r"Best +92\.34 % by t0003, 3\.22 points over the best baseline",
        r"Trials +3 complete, 4 pruned, 1 infeasible",
        r"best so far +92\.34 % +t0003 +3/3 ",
        r"seed-64-dropout +89\.12 % +t0001 +3/3 +347,114 ",
        r"1 epoch +7 +3 +4 ",
        r"3 epochs +3 +complete ",
        r"t0007 pruned after 1 epoch, validation 61\.00 %: rank ",
    ):
        assert re.search(fact, text), f"{fact}\n{text}"


def test_slots_show_what_is_trained(study: Study, play: Callable[..., Driver]) -> None:
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, {0: [0.81, 0.85], 1: [0.81]}, screen)
        text = drawn(frame(screen._view, state="searching", now=0.0))
    assert re.search(r"1  t0000 +2/3 .+ 85\.00 % +1,000  32 k3 valid dense 32", text), text
    assert re.search(r"2  t0001 +1/3 .+ 81\.00 % +1,000  64 k3 valid", text), text
    assert re.search(r"Trials +2 running ", text), text


def test_a_low_terminal_leaves_slots_out_and_says_so(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    study = make_study(baselines=BASELINES, budget={"trials": 30})
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, {n: [0.8] for n in range(16)}, screen, slots=16)
        for height in (22, 30, 40):
            text = drawn(frame(screen._view, state="searching", now=0.0, height=height))
            assert len(text.splitlines()) <= height
            shown = len(re.findall(r"^. +\d+  t\d{4} ", text, re.MULTILINE))
            assert shown >= 3
            assert shown == 16 or f"and {16 - shown} more" in text


def test_events_give_what_the_record_gives(study: Study, play: Callable[..., Driver]) -> None:
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, {n: CURVES[n] for n in range(6)}, screen)
        followed, read = screen._view, View.of(study)
    assert list(followed.trials) == list(read.trials)
    for number, trial in read.trials.items():
        other = followed.trials[number]
        assert (other.outcome, other.reason) == (trial.outcome, trial.reason)
        accuracies = [(row.epoch, row.val_accuracy) for row in other.epochs]
        assert accuracies == [(row.epoch, row.val_accuracy) for row in trial.epochs]
    assert followed.rungs == read.rungs
    assert followed.ended == read.ended
    assert followed.paused == read.paused
    assert (followed.num_asked, followed.num_epochs) == (read.num_asked, read.num_epochs)


def test_paused_trials_leave_their_slot_and_are_counted_until_they_go_on(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1, "brackets": 2}
    study = make_study(asha=asha, max_epochs=4, budget={"trials": 12})
    study.note("data", FACTS)
    curves = {n: [0.6 - 0.01 * n, 0.7, 0.8, 0.9] for n in range(10)}
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, curves, screen)
        followed, read = screen._view, View.of(study)
    last = {d["trial"]: d["action"] for d in study.record.decisions()}
    open_trials = {a["trial"] for a in study.record.attempts() if a["ended_at"] is None}
    waiting = {n for n, action in last.items() if action == "pause"} - open_trials
    assert len(waiting) >= 3 and "promote" in last.values()
    assert followed.paused == read.paused == waiting
    assert followed.rungs == read.rungs
    assert set(followed.slots) - {None} == open_trials
    counts = f"{len(open_trials)} running, {len(waiting)} paused"
    assert followed.count_outcomes().startswith(f"{counts}, ")
    text = drawn(frame(followed, state="searching", now=0.0))
    assert re.search(rf"Trials +{counts}, ", text), text
    for row in followed.rung_rows():
        name = f"{row.rung} epochs?, bracket {row.bracket}"
        numbers = f" +{row.reached} +{row.went_on} +{row.paused} +{row.stopped} "
        assert re.search(name + numbers, text), text
    assert sum(row.paused for row in followed.rung_rows()) == len(waiting)
    assert {(row.bracket, row.rung) for row in followed.rung_rows()} == {(0, 1), (0, 2), (1, 2)}


def test_audited_trials_are_told_apart_and_counted_at_no_later_rung(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "stopping", "reduction_factor": 2, "min_competitors": 1, "audit_share": 1.0}
    study = make_study(asha=asha, max_epochs=4, budget={"trials": 6})
    study.note("data", FACTS)
    play(study, {n: [0.6 - 0.05 * n, 0.6, 0.7, 0.8] for n in range(6)}, slots=1)
    rows = View.of(study).rung_rows()
    assert [(row.rung, row.reached, row.went_on, row.audited) for row in rows] == [
        (1, 6, 1, 5),
        (2, 1, 1, 0),
    ]
    text = drawn(frame(View.of(study), state="searching", now=0.0))
    assert re.search(r"Rung +Reached +Went on +Stopped +Audited", text), text
    assert re.search(r"1 epoch +6 +1 +0 +5 ", text), text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_search_that_was_asked_to_stop_says_so_where_it_stays(
    study: Study,
    play: Callable[..., Driver],
    terminal: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    screen = Screen(study, console=make_console(terminal=terminal))
    said = "stopping after the current epochs; Ctrl-C again stops at once"
    with screen:
        driver = play(study, {0: [0.80], 1: [0.81]}, screen)
        assert said not in drawn(screen._frame(), width=120)
        driver.stop("SIGINT received")
        assert said in drawn(screen._frame(), width=120)
    # Beside a frame it would be wiped, and push the frame down.
    assert capfd.readouterr().err == ("" if terminal else f"{said}\n")
    assert said not in drawn(screen._frame(), width=120)


def test_a_pause_counts_towards_the_plateau_as_the_driver_counts_it(
    make_study: MakeStudy, play: Callable[..., Driver]
) -> None:
    asha = {"form": "promotion", "reduction_factor": 2, "min_competitors": 1}
    study = make_study(asha=asha, max_epochs=4, budget={"trials": 20, "plateau_trials": 15})
    study.note("data", FACTS)
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    curves = {n: [0.5 - n / 100] * 4 for n in range(5)}
    with screen:
        driver = play(study, curves, screen, slots=1)
        assert screen._view.paused
        for view in (screen._view, View.of(study)):
            (shown,) = (use for use in view.budget(0.0) if use.limit == "plateau_trials")
            (counted,) = (use for use in driver._budget.uses(0.0) if use.limit == "plateau_trials")
            assert shown == counted
    assert counted.text == "4 of 15 trials without a better one"


def test_every_limit_has_a_bar_in_the_search_and_in_the_record(
    make_study: MakeStudy, shape: ImageShape, make_epoch: MakeEpoch, monkeypatch: Any
) -> None:
    clock = [time.time()]
    for module in ("record.record", "screen.progress"):
        monkeypatch.setattr(f"search.{module}.time.time", lambda: clock[0])
    budget = {"trials": 30, "device_hours": 2.0, "plateau_trials": 9, "regret_bound": 0.001}
    study = make_study(asha={"enabled": False}, max_epochs=1, budget=budget, baselines=[])
    study.note("data", FACTS)
    study.note("share", 2)  # CPU cores of a slot
    study.set_state("searching")
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        driver = Driver(study, shape=shape, slots=2, observers=[screen], clock=lambda: clock[0])
        for value in (0.5, 0.7, 0.6, 0.65):
            assignment = driver.next()
            assert assignment is not None
            clock[0] += 360
            driver.on_epoch(assignment.trial, make_epoch(1, value))
        assert driver.next() is not None
        clock[0] += 360
        study.note("regret_bounds", {"20": 0.01, "25": 0.004})
        uses = {use.limit: use for use in screen._view.budget(clock[0])}
    # Five attempts of a tenth of an hour, of two cores; the fifth is under way.
    assert uses["device_hours"].text == "1.00 of 2 device-hours"
    assert uses["plateau_trials"].text == "2 of 9 trials without a better one"
    assert uses["trials"].text == "5 of 30 trials"
    study.sessions.start("search", host=platform.node(), pid=os.getpid())
    view = View.of(study)
    told = {use.limit: use for use in view.budget(clock[0])}
    assert told.pop("regret_bound").text == "regret bound 0.004, ends at 0.001"
    assert told == uses
    text = drawn(frame(view, state="searching", now=clock[0]))
    for use in (*told.values(), "regret bound 0.004, ends at 0.001"):
        assert str(getattr(use, "text", use)) in text
    assert re.search(r"Left +\S", text), text


def test_a_trial_whose_worker_was_lost_keeps_its_slot(
    study: Study, shape: ImageShape, make_epoch: MakeEpoch
) -> None:
    console = make_console(terminal=False)
    with Screen(study, console=console) as screen:
        driver = Driver(study, shape=shape, slots=1, observers=[screen])
        assert driver.next() is not None
        driver.on_epoch(0, make_epoch(1, 0.8))
        driver.on_failure(0, Failure(kind="worker lost", reason="the worker process died"))
        assert driver.next() is not None
        assert screen._view.slots == [0]
    assert "t0000 goes on from epoch 1 (baseline seed-32): 32 k3" in written(console)


@pytest.mark.parametrize("terminal", [True, False])
def test_why_a_trial_failed_stays_on_one_line_as_it_is(
    study: Study, shape: ImageShape, terminal: bool
) -> None:
    console = make_console(terminal=terminal, width=200)
    with Screen(study, console=console) as screen:
        driver = Driver(study, shape=shape, slots=1, observers=[screen])
        driver.next()
        driver.on_failure(
            0,
            Failure(
                kind="bug",
                reason="ValueError: [bold]odd[/] shape \x1b[2J [3, 28]",
                trace="Traceback\nValueError: [bold]odd[/] shape \x1b[2J [3, 28]",
            ),
        )
    lines = CODES.sub("", written(console)).splitlines()
    assert any(
        line.endswith(" t0000 failed: ValueError: [bold]odd[/] shape [2J [3, 28]") for line in lines
    )
    assert "\x1b[2J" not in written(console)


@pytest.mark.parametrize(("terminal", "verbosity"), [(True, "normal"), (False, "quiet")])
def test_synthetic_images_are_said_loudly(
    study: Study, play: Callable[..., Driver], terminal: bool, verbosity: str
) -> None:
    study.note("data", FACTS | {"name": "synthetic", "synthetic": True})
    console = make_console(terminal=terminal)
    search_in(console, study, play, verbosity=verbosity)
    text = CODES.sub("", written(console))
    assert re.search(r"CAUTION:? +synthetic images: the accuracies say nothing", text), text


def test_the_time_left_is_told_once_enough_trials_ended(
    study: Study, play: Callable[..., Driver]
) -> None:
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, {n: CURVES[n] for n in range(4)}, screen)
        screen._view.since = 0.0
        assert seconds_left(screen._view, 10.0) is None
        play(study, CURVES, screen)
        assert seconds_left(screen._view, 10.0) == (0.0, 0.0)


def test_the_screen_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'optuna', 'sqlalchemy', 'numpy', 'pydantic'}"
    code = f"import sys, search.screen.progress; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
