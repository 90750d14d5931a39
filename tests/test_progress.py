"""What people see of a search, by hand: a real driver and record, made-up epochs, no training."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from data.images import ImageShape
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import EpochMetrics
from search.driver import Driver
from search.progress import RetrainScreen, Screen, download_progress
from search.screen import frame
from search.study import Study
from search.summary import status_table, studies_table, summary
from search.view import View, forecast_epochs, forecast_trials
from search.words import describe_network, interval, span

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
    asha = {"min_competitors": 1, "reduction_factor": 3}
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
        "t0002 pruned after 1 epoch, validation 70.00 %: rank 3 of 3 at the rung of 1 epochs;"
        " the best 1 go on"
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
    assert "Trials  2 running" in text


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
            assert shown >= 4
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
    assert followed.stopped_at == read.stopped_at
    assert list(followed.ended) == list(read.ended)
    assert (followed.num_asked, followed.num_epochs) == (read.num_asked, read.num_epochs)


def test_a_trial_whose_worker_was_lost_keeps_its_slot(
    study: Study, shape: ImageShape, make_epoch: MakeEpoch
) -> None:
    console = make_console(terminal=False)
    with Screen(study, console=console) as screen:
        driver = Driver(study, shape=shape, slots=1, observers=[screen])
        assert driver.next() is not None
        driver.on_epoch(0, make_epoch(1, 0.8))
        driver.on_lost(0, "the worker process died")
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
        driver.on_failure(0, "Traceback\nValueError: [bold]odd[/] shape \x1b[2J [3, 28]")
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
    for text in (
        CODES.sub("", written(console)),
        drawn(status_table(study)),
        drawn(summary(study)),
    ):
        assert re.search(r"CAUTION:? +synthetic images: the accuracies say nothing", text), text
    study.note("substitution", "drawn images stand in for fashion-mnist: no internet")
    text = " ".join(drawn(summary(study)).split())
    assert "CAUTION not the data asked for: drawn images stand in for fashion-mnist: no" in text


def test_status_shows_a_search_of_another_process(
    study: Study, play: Callable[..., Driver]
) -> None:
    session = study.record.start_session("search", host=platform.node(), pid=os.getpid())
    play(study, {0: [0.81, 0.85], 1: [0.81]})
    text = drawn(status_table(study))
    assert "shown - searching " in text
    assert re.search(r"1  t0000 +2/3 ", text), text
    # The same, but its process is gone: nothing runs.
    study.record.end_session(session)
    study.record.start_session("search", host=platform.node(), pid=2**22 + 1)
    text = drawn(status_table(study))
    assert "shown - interrupted while searching " in text
    assert "Slot" not in text
    assert "Trials   2 unfinished" in text


def test_all_studies_have_a_line_and_a_broken_one_its_reason(
    study: Study, make_study: MakeStudy, tmp_path: Path
) -> None:
    make_study("other").note("data", FACTS | {"name": "synthetic", "synthetic": True})
    finish(study)
    (tmp_path / "broken").mkdir()
    text = drawn(studies_table([tmp_path / name for name in ("broken", "other", "shown")]))
    assert re.search(r"^other +created +synthetic +0 +- +- +-$", text, re.MULTILINE), text
    assert re.search(
        r"^shown +finished +fashion-mnist +0 +- +93\.12 % +92\.6. to 93\.6.$", text, re.M
    )
    assert re.search(r"^broken: .*holds no study", text, re.MULTILINE)
    assert "python -m search run" in drawn(studies_table([]))


def finish(study: Study) -> None:
    """Write what a retrain and a look at the test set leave behind."""
    groups = {"winner": (0.9312, 3), "seed-32": (0.9012, 1), "seed-64-dropout": (0.92, 1)}
    metrics = {
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
    (study.folder / "final" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    study.record.add_look(reason="final evaluation", models="{}", broke_seal=False)
    study.set_state("finished")


def test_the_summary_gives_the_answer_and_where_everything_is(
    study: Study, play: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(study, CURVES)
    study.set_state("searched")
    assert "Test     not measured" in drawn(summary(study))
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
        r"Winner +t0003, validation accuracy 92\.34 %",
        r"Cost +[\d,]+ parameters, \d+\.\d\d million multiply-adds an image",
        r"Search +8 trials, 15 epochs in ",
        r"Report +shown/report\.html\n",
        r"TensorBoard +tensorboard --logdir shown\n",
    ):
        assert re.search(fact, text), f"{fact}\n{text}"
    assert "export" not in text  # nothing was exported
    study.record.add_look(reason="again", models="{}", broke_seal=True)
    assert "2 looks at the test set; the seal was BROKEN" in drawn(summary(study))


def test_a_retrain_has_a_line_a_model_or_a_bar(make_epoch: MakeEpoch) -> None:
    log, quiet, terminal = (make_console(terminal=terminal) for terminal in (False, False, True))
    for console, verbosity in ((log, "normal"), (quiet, "quiet"), (terminal, "normal")):
        with RetrainScreen(console=console, verbosity=verbosity) as screen:  # type: ignore[arg-type]
            for epoch in (1, 2):
                screen("winner-s0", 2, make_epoch(epoch, 0.0, val_accuracy=None, val_loss=None))
            screen("seed-32-s0", 2, make_epoch(1, 0.0, val_accuracy=None, val_loss=None))
    (line,) = written(log).splitlines()
    assert line[20:] == (
        "winner-s0 retrained, epoch 2/2: training 80.00 %, loss 0.5000; 1,000 images/s"
    )
    assert written(quiet) == ""
    bars = CODES.sub("", written(terminal))
    assert re.search(r"winner-s0 .* 2/2  train 80\.00 %  1,000 images/s  done", bars), bars
    assert re.search(r"seed-32-s0 .* 1/2  train 80\.00 %  1,000 images/s  2 s left", bars), bars


def test_a_download_is_shown_only_where_there_is_one() -> None:
    log, terminal, quiet, idle = (make_console(terminal=n in (1, 3)) for n in range(4))
    with download_progress(console=idle):
        pass
    assert written(idle) == ""
    for console in (log, terminal, quiet):
        with download_progress("quiet" if console is quiet else "normal", console) as show:
            for done in (0, 500, 0, 1000):  # a retry starts again
                show("train.gz", done, 1000)
    assert [line[20:] for line in written(log).splitlines()] == [
        "downloading train.gz, 1.0 kB",
        "downloaded train.gz",
    ]
    assert "1.0/1.0 kB" in CODES.sub("", written(terminal))
    assert written(quiet) == ""


def test_the_time_left_is_told_once_enough_trials_ended(
    study: Study, play: Callable[..., Driver]
) -> None:
    screen = Screen(study, console=make_console(terminal=False), verbosity="quiet")
    with screen:
        play(study, {n: CURVES[n] for n in range(4)}, screen)
        screen._view.since = 0.0
        assert screen._view.seconds_left(10.0) is None
        play(study, CURVES, screen)
        assert screen._view.seconds_left(10.0) == (0.0, 0.0)


def test_forecasts_of_equal_trials_are_exact_and_of_unequal_ones_wide() -> None:
    # Two slots: one is free after 6 seconds, one at once; three more trials of 10 seconds.
    assert forecast_trials([10.0] * 5, [4.0], 3, slots=2) == (20.0, 20.0)
    assert forecast_trials([10.0] * 5, [], 1000, slots=4) == (2500.0, 2500.0)
    assert forecast_epochs([(3, 6.0), (1, 2.0)], 50) == (100.0, 100.0)
    low, high = forecast_trials([1.0, 1.0, 1.0, 1.0, 30.0], [], 20, slots=1)
    assert low < 20 * 34 / 5 < high
    many = forecast_trials([1.0, 1.0, 1.0, 1.0, 30.0] * 20, [], 20, slots=1)
    assert many[1] - many[0] < high - low


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.7, "1 min"), (190, "3 min 10 s"), (3599.6, "1 h"), (7380, "2 h 3 min")],
)
def test_spans_have_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_intervals_are_rounded_outwards_as_coarsely_as_they_are_wide() -> None:
    assert interval(42.0, 42.2) == "42 s"
    assert interval(119.0, 241.0) == "1 min 30 s to 4 min 30 s (80 % interval)"


def test_networks_are_told_in_a_few_words() -> None:
    network = NetworkConfig(
        filters=(16, 32), kernel_sizes=(3, 5), convs_per_block=2, residual=True, head="average",
        block_dropouts=(0.1,), dropout=0.25,
    )  # fmt: skip
    training = TrainingConfig(epochs=1, learning_rate=0.1)
    words = describe_network(Configuration(network=network, training=training).to_dict())
    assert words == "16-32 k3-5 x2 residual bn average block-drop 0.1 drop 0.25"


def test_the_screen_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'optuna', 'sqlalchemy', 'numpy', 'pydantic'}"
    code = f"import sys, search.progress; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
