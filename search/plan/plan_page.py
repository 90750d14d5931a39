"""A plan as a page of a terminal. Nothing depends on colour, and 80 columns are enough."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.machine.gpu_share import GpuNeed
from search.machine.needs import Need
from search.plan.forecast import Forecast, Interval
from search.plan.plan import Plan
from search.prune.budget import describe
from search.screen.screen import columns
from search.words import one_line, plural, span

_BAR = 20


def plan_page(plan: Plan) -> RenderableType:
    """Return the page of a plan; refusals are the command's to say."""
    parts: list[RenderableType] = [_head(plan)]
    if plan.forecast is not None:
        parts += ["", _stages(plan.forecast), "", _rungs(plan, plan.forecast)]
        parts += ["", _needs(plan), "", _epochs(plan)]
    state, style = (" - plan, refused", "red") if plan.refusals else (" - plan", "dim")
    title = Text.assemble((plan.config.study, "bold"), state)
    panel = Panel(Group(*parts), title=title, title_align="left", border_style=style)
    return Group(panel, *_warnings(plan))


def _head(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(style="bold", no_wrap=True, min_width=7)
    table.add_column(ratio=1)
    about = plan.conditions
    if plan.forecast is not None:
        wall = plan.forecast.wall
        text = f"{span(wall.median)}; nine studies in ten take {_between(wall)}"
        table.add_row("Expect", Text(text, style="bold"))
    table.add_row("Budget", describe(plan.config.budget))
    table.add_row(
        "Data",
        f"{one_line(str(about['data']))}: {about['train_images']:,} images to train on,"
        f" {about['validation_images']:,} to score on",
    )
    share = f" and {plan.slots.gpus:g} of {about['device']}" if plan.slots.gpus else ""
    each = f"{plural(plan.slots.threads, 'thread')}{share}"
    others = f", {100 * about['busy']:.0f} % busy with other programs" if about["busy"] else ""
    table.add_row(
        "Machine",
        f"{about['processor']}, {plural(about['cpus'], 'CPU')}{others};"
        f" {plural(plan.slots.count, 'slot')} of {each}, {about['precision']}",
    )
    if about.get("gpu_need"):
        table.add_row("GPU", str(GpuNeed.from_dict(about["gpu_need"])))
    if plan.probed is not None and plan.spread is not None:
        table.add_row(
            "Probe",
            f"{plural(len(plan.probed.measured), 'configuration')} in {span(plan.probed.seconds)},"
            f" the others predicted: sigma {100 * plan.spread:.0f} %",
        )
    table.add_row(
        "Space",
        f"{100 * plan.draws.refused_share:.0f} % of {plan.draws.num_draws:,} draws are refused (no"
        " network, or over the limits)",
    )
    return table


def _stages(forecast: Forecast) -> Table:
    table = _expectations("Time")
    stages = {
        "search": forecast.search,
        "race of finalists": forecast.race,
        "retrain": forecast.retrain,
        "start, test, export": forecast.rest,
    }
    for name, seconds in stages.items():
        bar = _bar(seconds.median, forecast.wall.median)
        table.add_row(name, span(seconds.median), _between(seconds), bar)
    wall = forecast.wall
    table.add_row("whole study", span(wall.median), _between(wall), style="bold")
    return table


def _expectations(what: str) -> Table:
    table = columns(what, "Expected>", "Nine studies in ten", "*")
    # Of equal width in both tables, so that the bars stand below each other.
    for column, width in zip(table.columns, (21, 12, 26), strict=False):
        column.min_width = width
    return table


def _rungs(plan: Plan, forecast: Forecast) -> Table:
    table = _expectations("Trials")
    most = forecast.trials.median
    max_epochs = plan.config.max_epochs
    rows = [("begun", forecast.trials)]
    rows += [
        (f"trained for {plural(epochs, 'epoch')}", trials)
        for epochs, trials in forecast.reached.items()
        if epochs < max_epochs
    ]
    rows.append((f"complete, {plural(max_epochs, 'epoch')}", forecast.reached[max_epochs]))
    for name, trials in rows:
        bar = _bar(trials.median, most)
        table.add_row(
            name, f"{trials.median:,.0f}", f"{trials.low:,.0f} to {trials.high:,.0f}", bar
        )
    epochs = forecast.epochs
    table.add_row(
        "epochs in all", f"{epochs.median:,.0f}", f"{epochs.low:,.0f} to {epochs.high:,.0f}"
    )
    return table


def _needs(plan: Plan) -> Table:
    table = columns("Needs", "At most>", "Free>", "Parts*")
    for need in plan.needs:
        style = None if need.suffices else "bold red"
        table.add_row(
            need.what, decimal(need.total), decimal(need.available), _parts(need), style=style
        )
    return table


def _epochs(plan: Plan) -> Table:
    table = columns("Epoch of", "Seconds>", "Parameters>", "Mult-adds>", "Network*")
    for row in plan.examples:
        table.add_row(
            row.name,
            f"{row.epoch_seconds:.3g}",
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e6:.2f} M",
            row.network,
        )
    return table


def _warnings(plan: Plan) -> Iterator[RenderableType]:
    # Outside the panel, whose borders would be copied along.
    for warning in plan.warnings:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_row(Text("  warning", style="yellow"), Text(one_line(warning)))
        yield table


def _parts(need: Need) -> str:
    # Largest first: what does not fit the line is what matters least.
    ordered = sorted(need.parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {decimal(part)}" for name, part in ordered)


def _between(seconds: Interval) -> str:
    low, high = span(seconds.low), span(seconds.high)
    return low if low == high else f"{low} to {high}"


def _bar(part: float, whole: float) -> RenderableType:
    styles = {"complete_style": "cyan", "finished_style": "cyan"}
    width = max(1, round(_BAR * part / max(whole, 1e-9)))
    return ProgressBar(total=1, completed=1, width=width, **styles)  # type: ignore[arg-type]
