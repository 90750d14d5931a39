"""What people see of the trainings after the search, and of a download."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from model.train import EpochMetrics
from search.screen.progress import RetrainScreen, download_progress

MakeEpoch = Callable[..., EpochMetrics]
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def make_console(*, terminal: bool, width: int = 80, height: int = 40) -> Console:
    """Return a console that writes to memory, whatever the environment says."""
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, _environ={}
    )


def drawn(screen: RetrainScreen) -> str:
    """Return the frame that a terminal would show now, as plain text."""
    console = make_console(terminal=False)
    console.print(screen._frame())
    text = written(console)
    assert all(len(line) <= 80 for line in text.splitlines())
    return text


def written(console: Console) -> str:
    """Return what a console has written, control codes included."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def unscored(make_epoch: MakeEpoch, epoch: int) -> EpochMetrics:
    return replace(make_epoch(epoch, 0.0), val_accuracy=None, val_loss=None)


def test_trainings_have_a_line_a_model_or_a_frame(make_epoch: MakeEpoch) -> None:
    log, quiet, terminal = (make_console(terminal=terminal) for terminal in (False, False, True))
    for console, verbosity in ((log, "normal"), (quiet, "quiet"), (terminal, "normal")):
        with RetrainScreen(console=console, verbosity=verbosity) as screen:  # type: ignore[arg-type]
            for epoch in (1, 2):
                screen("winner-s0", 2, unscored(make_epoch, epoch))
            screen("seed-32-s0", 2, unscored(make_epoch, 1))
            frame = drawn(screen)
        assert re.search(r"final models - 1 trained, ", frame), frame
        assert re.search(r"winner-s0 +2/2 .* 80\.00 % +1,000 +done", frame), frame
        assert re.search(r"seed-32-s0 +1/2 .* 80\.00 % +1,000 +2 s ", frame), frame
        assert "Held out" not in frame
    assert [line[20:].partition(" in ")[0] for line in written(log).splitlines()] == [
        "final models",
        "winner-s0 trained, epoch 2/2: training 80.00 %, loss 0.5000; 1,000 images/s",
        "final models: 1 training",
    ]
    assert written(quiet) == ""
    # The frame is gone in the end; the line that is left says what was done.
    left = CODES.sub("", written(terminal)).splitlines()[-1]
    assert re.search(r"final models: 1 training in \d+ s", left), left


def test_a_round_of_the_race_says_which_it_is_and_who_was_best(make_epoch: MakeEpoch) -> None:
    console = make_console(terminal=False)
    what = "finalists, round 2 of at most 5"
    with RetrainScreen(console=console, what=what) as screen:
        assert "waiting for the first epoch" in drawn(screen)
        for name, value in (("t0001-r2", 0.9), ("t0007-r2", 0.92), ("seed-32-r2", 0.88)):
            screen(name, 1, make_epoch(1, value))
        frame = drawn(screen)
    assert f"{what} - 3 trained" in frame
    assert re.search(r"Model +Epochs +Held out +Training ", frame), frame
    assert re.search(r"t0007-r2 +1/1 .* 92\.00 % +80\.00 %", frame), frame
    first, *_, last = (line[20:] for line in written(console).splitlines())
    assert first == what
    assert re.search(rf"{what}: 3 trainings in \d+ s; best 92\.00 % by t0007-r2", last), last


def test_a_low_terminal_shows_what_is_trained_now_and_says_what_it_leaves_out(
    make_epoch: MakeEpoch,
) -> None:
    console = make_console(terminal=False, height=10)
    with RetrainScreen(console=console, verbosity="quiet") as screen:
        for number in range(12):
            screen(f"done-s{number}", 2, make_epoch(2, 0.9))
        for name in ("busy-a", "busy-b"):
            screen(name, 2, make_epoch(1, 0.9))
        frame = drawn(screen)
    assert len(frame.splitlines()) <= 10
    shown = re.findall(r"(busy-\w|done-s\d+)", frame)
    assert shown == ["done-s10", "done-s11", "busy-a", "busy-b"]
    assert "and 10 more" in frame


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
