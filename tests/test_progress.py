"""What people see of a search, by hand: a real driver and record, made-up epochs, no training."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from data.images import ImageShape
from model.train import EpochMetrics
from search.driver import Driver
from search.progress import RetrainScreen, Screen, download_progress
from search.screen import frame
from search.study import Study
from search.summary import status_table, studies_table, summary
from search.view import View, forecast_epochs, forecast_trials
from search.words import describe_network, interval, one_line, span

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

    def run(study: Study, curves: dict[int, list[float]], *observers: Any, slots: int = 2) -> Driver:
        study.note("data", study.noted("data") or FACTS)
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
    return make_study(
        "shown", baselines=BASELINES, max_epochs=3, asha=asha, budget={"trials": 8}
    )


CURVES = {
    0: [0.80, 0.85, 0.88],
    1: [0.81, 0.86, 0.8912],
    2: [0.70],
    3: [0.85, 0.90, 0.9234],
    4: [0.60],
    5: [float("nan")],
    6: [0.86, 0.89],
    7: [0.61],
}


def test_a_log_has_a_line_an_event_and_no_control_codes(
    study: Study, play: Callable[..., Driver]
) -> None:
    console = make_console(terminal=False)
    with Screen(study, console=console) as screen:
        play(study, CURVES, screen)
        study.set_state("searched")
    text = written(console)
    assert "\x1b" not in text
    lines = text.splitlines()
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
    assert (
        "t0005 infeasible after 1 epoch: diverged: the loss is not finite at epoch 1"
    ) in told
    assert any(line.startswith("t0003 passes a rung with 85.00 %: rank 1 of") for line in told)
    assert told[-1].startswith("shown searched: 3 complete, 4 pruned, 1 infeasible; 15 epochs in ")
    assert told[-1].endswith(
        "; best validation accuracy 92.34 % by t0003 (sampler),"
        " best baseline 89.12 % by seed-64-dropout"
    )
