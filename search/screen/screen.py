"""A study as one frame of a terminal. Nothing depends on colour, and 80 columns are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.record.view import View
from search.screen.time_left import seconds_left
from search.words import (
    describe_network,
    last_epoch,
    likely,
    outcome_line,
    percent,
    plural,
    span,
)

if TYPE_CHECKING:
    from search.record.study import Trial

_BAR = 20
_MOST_ENDED = 4
_FEW_SLOTS = 4  # shown before anything is left out for more


def frame(
    view: View, *, state: str, now: float, width: int | None = None, height: int | None = None
) -> RenderableType:
    """Return the picture of a study at Unix time `now`.

    Args:
        view: What is known.
        state: Where the study stands, for the title.
        width: Columns to use; None for all.
        height: Lines there are: slots and ended trials that do not fit are left out. None for all.
    """
    tables = [_head(view, now), _accuracies(view)]
    if view.study.config.asha.enabled:
        tables.append(_ladder(view))
    room, gap = 1000, 1
    if height is not None:
        enough = 1 + min(len(view.slots), _FEW_SLOTS)
        gap = 1 if _room(height, tables, gap=1) >= enough else 0
        if _room(height, tables, gap=gap) < enough:
            tables = tables[:1]  # the best trial is in the head too
        room = _room(height, tables, gap=gap)
    if view.slots:
        tables.append(_slots(view, max(3, room)))
        room -= _num_lines(tables[-1]) + gap
    if view.ended and room > 0:
        tables.append(_ended(view, min(room, _MOST_ENDED)))
    spaced: list[RenderableType] = []
    for table in tables:
        spaced += [*([""] * gap if spaced else []), table]
    title = Text.assemble((view.study.name, "bold"), f" - {state}")
    return Panel(Group(*spaced), title=title, title_align="left", border_style="dim", width=width)


def _head(view: View, now: float) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    if view.caution:
        table.add_row(Text("CAUTION", style="reverse"), Text(view.caution, style="bold yellow"))
    table.add_row("Data", Text(view.data))
    for index, bar in enumerate(_budget(view, now)):
        table.add_row("" if index else "Budget", bar)
    if view.since is not None and (left := seconds_left(view, now)) is not None:
        table.add_row("Left", likely(*left))
    if (best := view.best()) is not None:
        scores = [t.value for t in view.baselines().values() if t.value is not None]
        lead = 100 * ((best.value or 0.0) - max(scores)) if scores else 0.0
        text = f"{percent(best.value)} by {best.name}"
        text += f", {lead:.2f} points over the best baseline" if lead > 0 else ""
        table.add_row("Best", Text(text, style="bold green"))
        table.add_row("", _network(best))
    table.add_row("Trials", view.count_outcomes() or "none yet")
    seconds, images = view.seconds(now), view.num_epochs * view.train_images
    speed = f", {images / seconds:,.0f} images/s over all slots" if seconds else ""
    table.add_row("Trained", f"{plural(view.num_epochs, 'epoch')} in {span(seconds)}{speed}")
    return table


def _budget(view: View, now: float) -> list[RenderableType]:
    rows: list[RenderableType] = []
    for use in view.budget(now):
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(bar(use.share, 1.0, _BAR), use.text)
        rows.append(row)
    return rows


def _accuracies(view: View) -> Table:
    table = columns("Validation", "Accuracy>", "Trial", "Epochs>", "Parameters>", "Network*")
    max_epochs, best = view.study.config.max_epochs, view.best()
    for name, trial in [("best so far", best), *view.baselines().items()]:
        if trial is None:
            table.add_row(name, "-")
            continue
        table.add_row(
            name,
            percent(trial.value),
            trial.name,
            f"{last_epoch(trial)}/{max_epochs}",
            f"{trial.parameters:,}" if trial.parameters is not None else "-",
            _network(trial),
            style="bold" if trial is best else None,
        )
    return table


def _ladder(view: View) -> Table:
    config, rows = view.study.config, view.rung_rows()
    brackets, waits = config.asha.brackets > 1, config.asha.form == "promotion"
    audits = any(row.audited for row in rows)
    kinds = ["Paused>"] * waits + ["Stopped>"] + ["Audited>"] * audits
    table = columns("Rung", "Reached>", "Went on>", *kinds, "*")
    most = max([1, *(row.reached for row in rows)])
    for row in rows:
        counts = [row.reached, row.went_on, *[row.paused] * waits, row.stopped]
        counts += [row.audited] * audits
        name = plural(row.rung, "epoch") + (f", bracket {row.bracket}" if brackets else "")
        table.add_row(name, *map(str, counts), _share(row.went_on, row.reached, most))
    complete = sum(trial.outcome == "complete" for trial in view.trials.values())
    bar = _share(complete, complete, most)
    blank = [""] * len(kinds)
    table.add_row(plural(config.max_epochs, "epoch"), str(complete), "complete", *blank, bar)
    return table


def _share(part: int, whole: int, most: int) -> RenderableType:
    width = -(-whole * _BAR // most)  # rounded up: one trial is seen
    return bar(part, whole, width) if whole else ""


def bar(part: float, whole: float, width: int) -> ProgressBar:
    """Return how much of something is done, `width` columns wide."""
    styles = {"complete_style": "cyan", "finished_style": "cyan"}
    return ProgressBar(total=whole, completed=part, width=width, **styles)  # type: ignore[arg-type]


def _slots(view: View, room: int) -> Table:
    table = columns("Slot>", "Trial", "Epochs>", "", "Accuracy>", "Images/s>", "Network*")
    max_epochs = view.study.config.max_epochs
    # One line is the header, and one says how many are left out.
    shown = view.slots if len(view.slots) < room else view.slots[: room - 2]
    for slot, number in enumerate(shown, start=1):
        if number is None:
            table.add_row(str(slot), "idle", style="dim")
            continue
        trial = view.trials[number]
        done, last = last_epoch(trial), trial.epochs[-1] if trial.epochs else None
        speed = last.images_per_second if last else None
        table.add_row(
            str(slot),
            trial.name,
            f"{done}/{max_epochs}",
            bar(done, max_epochs, 8),
            percent(last.val_accuracy if last else None),
            "-" if speed is None else f"{speed:,.0f}",
            _network(trial),
        )
    if len(shown) < len(view.slots):
        table.add_row("", f"and {len(view.slots) - len(shown)} more")
    return table


def _ended(view: View, room: int) -> Table:
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    for number in list(view.ended)[-room:]:
        table.add_row(Text(outcome_line(view.trials[number])))
    return table


def _room(height: int, tables: Sequence[Table], *, gap: int) -> int:
    return height - 2 - sum(_num_lines(table) + gap for table in tables)


def _num_lines(table: Table) -> int:
    return table.row_count + (1 if table.show_header else 0)


def _network(trial: Trial) -> str:
    return describe_network(trial.configuration) if trial.configuration else "-"


def columns(*names: str) -> Table:
    """Return an empty table: `Name>` is a column of numbers, `Name*` takes the room left."""
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 2, 0, 0), header_style="dim")
    for column in names:
        wide = column.endswith("*")
        table.add_column(
            column.rstrip(">*"),
            justify="right" if column.endswith(">") else "left",
            ratio=1 if wide else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    return table
