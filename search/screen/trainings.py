"""What a person sees of the trainings after the search: the finalists' rounds, the final models."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from search.screen.lines import Verbosity, numbers, say
from search.screen.screen import bar, columns
from search.words import percent, plural, span

if TYPE_CHECKING:
    from model.train import EpochMetrics

_BAR = 12


@dataclass(kw_only=True, slots=True)
class _Row:
    epochs: int
    last: EpochMetrics

    @property
    def is_done(self) -> bool:
        return self.last.epoch >= self.epochs

    @property
    def seconds_left(self) -> float:
        return (self.epochs - self.last.epoch) * self.last.seconds


class RetrainScreen:
    """Shows trainings: one calm frame in a terminal, one line a finished model elsewhere.

    The frame goes when they are over, and one line says what was done.
    """

    def __init__(
        self,
        *,
        verbosity: Verbosity = "normal",
        what: str = "final models",
        console: Console | None = None,
    ) -> None:
        """Prepare; enter it around the trainings and call it for every epoch.

        Args:
            verbosity: How much is said.
            what: Is trained: `finalists, rounds 1 to 2 of at most 5`.
            console: Standard error if left out.
        """
        self._verbosity, self._what = verbosity, what
        self._console = console or Console(stderr=True)
        self._rows: dict[str, _Row] = {}
        self._lock = Lock()  # the frame is drawn by a thread of its own
        self._begun = time.monotonic()
        self._live: Live | None = None
        if verbosity != "quiet" and self._console.is_interactive:
            self._live = Live(
                console=self._console,
                refresh_per_second=2,
                transient=True,
                get_renderable=self._frame,
            )

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        if self._live is not None:
            self._live.start()
        elif self._verbosity != "quiet":
            say(self._console, self._what)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._verbosity != "quiet":
            say(self._console, self._ending())

    def __call__(self, name: str, epochs: int, metrics: EpochMetrics) -> None:
        """Note an epoch of the model `name`, which is trained for `epochs`."""
        with self._lock:
            self._rows[name] = _Row(epochs=epochs, last=metrics)
        if self._verbosity == "verbose":
            say(self._console, f"{name} {numbers(metrics, epochs)}")
        elif self._verbosity == "normal" and self._live is None and metrics.epoch == epochs:
            say(self._console, f"{name} trained, {numbers(metrics, epochs)}")

    def _frame(self) -> RenderableType:
        with self._lock:
            rows = dict(self._rows)
        room = max(3, self._console.height - 5)
        shown = _chosen(rows, room)
        held_out = any(row.last.val_accuracy is not None for row in rows.values())
        table = columns(
            "Model",
            "Epochs>",
            "",
            *(["Held out>"] if held_out else []),
            "Training>",
            "Images/s>",
            "Left>",
            "*",
        )
        for name, row in shown.items():
            last = row.last
            table.add_row(
                name,
                f"{last.epoch}/{row.epochs}",
                bar(last.epoch, row.epochs, _BAR),
                *([percent(last.val_accuracy)] if held_out else []),
                percent(last.train_accuracy),
                f"{last.images_per_second:,.0f}",
                "done" if row.is_done else span(row.seconds_left),
                style="dim" if row.is_done else None,
            )
        parts: list[RenderableType] = [table]
        if not rows:
            parts = [Text("waiting for the first epoch", style="dim")]
        elif len(shown) < len(rows):
            parts.append(Text(f"and {len(rows) - len(shown)} more", style="dim"))
        title = Text.assemble((self._what, "bold"), f" - {self._progress()}")
        # Room at the right: what is typed, such as ^C, must not wrap and push the frame down.
        width = self._console.width - 3
        return Panel(
            Group(*parts), title=title, title_align="left", border_style="dim", width=width
        )

    def _progress(self) -> str:
        done = sum(row.is_done for row in self._rows.values())
        return f"{done} trained, {span(time.monotonic() - self._begun)}"

    def _ending(self) -> str:
        done = {name: row.last for name, row in self._rows.items() if row.is_done}
        text = f"{self._what}: {plural(len(done), 'training')} in "
        text += span(time.monotonic() - self._begun)
        measured = {n: last for n, last in done.items() if last.val_accuracy is not None}
        if measured:
            best = max(measured, key=lambda name: measured[name].val_accuracy or 0.0)
            text += f"; best {percent(measured[best].val_accuracy)} by {best}"
        return text


def _chosen(rows: dict[str, _Row], room: int) -> dict[str, _Row]:
    """Return the models there is room for: all that are trained now, then the last done."""
    if len(rows) <= room:
        return rows
    busy = [name for name, row in rows.items() if not row.is_done][: room - 1]
    done = [name for name, row in rows.items() if row.is_done]
    kept = {*busy, *done[len(done) - max(0, room - 1 - len(busy)) :]}
    return {name: row for name, row in rows.items() if name in kept}
