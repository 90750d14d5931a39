"""What people see of a retrain and of a download."""

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


def make_console(*, terminal: bool, width: int = 80) -> Console:
    """Return a console that writes to memory, whatever the environment says."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, _environ={})


def written(console: Console) -> str:
    """Return what a console has written, control codes included."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_retrain_has_a_line_a_model_or_a_bar(make_epoch: MakeEpoch) -> None:
    def unscored(epoch: int) -> EpochMetrics:
        return replace(make_epoch(epoch, 0.0), val_accuracy=None, val_loss=None)

    log, quiet, terminal = (make_console(terminal=terminal) for terminal in (False, False, True))
    for console, verbosity in ((log, "normal"), (quiet, "quiet"), (terminal, "normal")):
        with RetrainScreen(console=console, verbosity=verbosity) as screen:  # type: ignore[arg-type]
            for epoch in (1, 2):
                screen("winner-s0", 2, unscored(epoch))
            screen("seed-32-s0", 2, unscored(1))
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
