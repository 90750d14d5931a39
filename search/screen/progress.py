"""What a person sees in a terminal or a log: a search, a retrain, a download, and their outcome.

Progress goes to stderr; stdout is for results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, cast

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)

from search.prune.budget import describe
from search.record.view import View
from search.screen.lines import Verbosity, numbers, say
from search.screen.screen import frame
from search.screen.status import status_table, studies_table
from search.screen.summary import outcome, summary
from search.screen.trainings import RetrainScreen
from search.words import (
    describe_network,
    one_line,
    outcome_line,
    percent,
    plural,
    span,
)

if TYPE_CHECKING:
    from model.train import EpochMetrics
    from search.prune.assignment import Assignment
    from search.prune.ladder import Decision
    from search.record.study import Outcome, Study

__all__ = [
    "RetrainScreen",
    "Screen",
    "Verbosity",
    "download_progress",
    "outcome",
    "status_table",
    "studies_table",
    "summary",
]

_STOPPING = "stopping after the current epochs; Ctrl-C again stops at once"


class Screen:
    """Shows a search: one live frame in a terminal, one line an event elsewhere."""

    def __init__(
        self, study: Study, *, verbosity: Verbosity = "normal", console: Console | None = None
    ) -> None:
        """Prepare to show `study`; enter it around the search."""
        self._study, self._verbosity = study, verbosity
        self._console = console or Console(stderr=True)
        self._lock = Lock()  # the frame is drawn by a thread of its own
        self._view, self._state = View.of(study), "searching"
        self._live: Live | None = None
        if verbosity != "quiet" and self._console.is_interactive:
            self._live = Live(
                console=self._console, refresh_per_second=2, get_renderable=self._frame
            )

    def __enter__(self) -> Self:
        self._view.slots, self._view.since = [], time.time()
        if self._live is not None:
            self._live.start()
            return self
        if self._view.caution:
            say(self._console, f"CAUTION: {self._view.caution}")
        if self._verbosity != "quiet":
            budget = describe(self._study.config.budget)
            say(self._console, f"{self._study.name}, {self._view.data}; budget: {budget}")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with self._lock:
                self._view, self._state = View.of(self._study), self._study.state
        finally:
            if self._live is not None:
                self._live.stop()
        if self._live is None:
            say(self._console, _ending(self._view, self._state))

    def started(self, assignment: Assignment, origin: str) -> None:
        """Note that a trial was handed out."""
        number = assignment.trial
        # Proposals refused since the last one are told to nobody; they are in the record.
        fresh = [self._study.trial(n) for n in range(len(self._view.trials), number)]
        trial = self._study.trial(number)
        with self._lock:
            self._view.trials |= {t.number: t for t in fresh}
            self._view.start(trial, time.time())
        text = f"{trial.name} starts ({origin}): "
        if trial.epochs:
            text = f"{trial.name} goes on from epoch {trial.epochs[-1].epoch} ({origin}): "
        text += describe_network(assignment.configuration.to_dict())
        self._tell(f"{text}, {trial.parameters or 0:,} parameters")

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Note that an epoch was recorded."""
        with self._lock:
            self._view.add_epoch(trial, metrics, decision, time.time())
        name = self._view.trials[trial].name
        if self._verbosity == "verbose":
            total = self._study.config.max_epochs
            self._tell(f"{name} {numbers(metrics, total)}", always=True)
        if decision is not None and decision.action == "continue":
            self._tell(f"{name} passes a rung with {percent(decision.value)}: {decision.reason}")

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Note that a trial ended."""
        with self._lock:
            self._view.end(trial, cast("Outcome", outcome), reason, time.time())
        best, row = self._view.best(), self._view.trials[trial]
        text = outcome_line(row)
        if best is not None and best.number == trial:
            text += "; the best so far"
        # What failed stays on the screen: somebody may have to mend it.
        self._tell(text, always=self._verbosity == "verbose" or outcome == "failed")

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Say that a trial's worker failed it, and that it goes on."""
        with self._lock:
            self._view.free(trial, time.time())
        name = self._view.trials[trial].name
        text = reason if reason.startswith(failure) else f"{failure}: {reason}"
        self._tell(
            one_line(f"{name} has lost an attempt and will be tried again: {text}"), always=True
        )

    def warn(self, text: str) -> None:
        """Say what people should know; it stays on the screen."""
        self._tell(text, always=True)

    def stopping(self, reason: str) -> None:
        """Say that the search stops after the current epochs, in the frame if there is one."""
        self._state = _STOPPING
        if self._live is None:
            os.write(2, f"{_STOPPING}\n".encode())  # not print: its lock may be held

    def _tell(self, text: str, *, always: bool = False) -> None:
        if self._verbosity != "quiet" and (always or self._live is None):
            say(self._console, text)

    def _frame(self) -> RenderableType:
        # Room at the right: what is typed, such as ^C, must not wrap and push the frame down.
        width, height = self._console.width - 3, self._console.height - 2
        with self._lock:
            return frame(
                self._view,
                state=self._state,
                now=time.time(),
                width=width,
                height=height if self._state in ("searching", _STOPPING) else None,
            )


@contextmanager
def download_progress(
    verbosity: Verbosity = "normal", console: Console | None = None
) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows a download: called with (file, bytes done, bytes in total).

    Nothing is shown where nothing is downloaded.
    """
    console = console or Console(stderr=True)
    bars = _bars(console, DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, Any] = {}
    finished: set[str] = set()

    def show(file: str, done: int, total: int) -> None:
        if verbosity == "quiet":
            return
        if console.is_interactive:
            bars.start()
            if file not in tasks:
                tasks[file] = bars.add_task(one_line(file), total=total)
            bars.update(tasks[file], completed=done)
        elif file not in tasks:
            tasks[file] = None
            say(console, f"downloading {file}, {decimal(total)}")
        elif done >= total and file not in finished:
            finished.add(file)
            say(console, f"downloaded {file}")

    try:
        yield show
    finally:
        if console.is_interactive:
            bars.stop()


def _bars(console: Console, *columns: ProgressColumn) -> Progress:
    name = TextColumn("{task.description}", markup=False)
    bar = BarColumn(24, complete_style="cyan", finished_style="cyan")
    return Progress(name, bar, *columns, console=console, refresh_per_second=2)


def _ending(view: View, state: str) -> str:
    text = f"{view.study.name} {state}: {view.count_outcomes() or 'no trials'};"
    text += f" {plural(view.num_epochs, 'epoch')} in {span(view.seconds(time.time()))}"
    if (best := view.best()) is not None:
        text += f"; best validation accuracy {percent(best.value)} by {best.name} ({best.origin})"
    scored = {name: t.value for name, t in view.baselines().items() if t.value is not None}
    if scored:
        name = max(scored, key=scored.__getitem__)
        text += f", best baseline {percent(scored[name])} by {name}"
    return text
