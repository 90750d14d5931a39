"""Tables of studies for people: how one stands, how all stand, and what one has found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from search.record.lock import is_alive
from search.record.view import View
from search.screen.screen import columns, frame
from search.words import (
    data_caution,
    describe_network,
    one_line,
    percent,
    plural,
    span,
)

if TYPE_CHECKING:
    from search.record.study import Study


def status_table(study: Study) -> RenderableType:
    """Return how a study stands by its record, also while another process searches."""
    shown = frame(View.of(study), state=_state(study), now=time.time())
    return Group(shown, summary(study)) if study.state == "finished" else shown


def studies_table(folders: Sequence[Path]) -> RenderableType:
    """Return one line a study; a folder that cannot be read gives its reason."""
    from search.record.study import StudyError, open_study
    from search.screen.result import build_result

    if not folders:
        return Text("no studies yet; start one: python -m search run --preset quickstart")
    table = columns("Study", "State*", "Data", "Trials>", "Validation>", "Test>", "95 % interval>")
    refused = []
    for folder in folders:
        try:
            study = open_study(folder)
            result = build_result(study)
        except StudyError as error:
            refused.append(Text(f"{folder.name}: {one_line(str(error))}"))
            continue
        best, final = result["best"] or {}, result["final"] or {}
        table.add_row(
            study.name,
            "interrupted" if _is_interrupted(study) else study.state,
            Text(one_line(str(result["dataset"]["name"]))),
            str(result["trials"]["total"]),
            percent(best.get("val_accuracy")),
            percent(final.get("test_accuracy")),
            _range(final.get("ci95")),
        )
    return Group(table, *refused)


def summary(study: Study) -> RenderableType:
    """Return what a study found: the answer, what it cost, and where everything is."""
    from search.screen.result import build_result, final_metrics

    result = build_result(study)
    final = result["final"]
    answer = _grid()
    if caution := data_caution(study):
        answer.add_row(Text("CAUTION", style="reverse"), Text(caution, style="bold yellow"))
    parts: list[RenderableType] = [answer]
    if final is None:
        why = "there are no retrained models yet"
        if study.record.looks() and final_metrics(study):
            why = "the test images were opened before, for other final models"
        answer.add_row("Test", f"not measured: {why}")
    else:
        text = Text(percent(final["test_accuracy"]), style="bold green")
        text.append(f", 95 % interval {_range(final['ci95'])}; {plural(final['seeds'], 'seed')}")
        text.append(f", {result['dataset']['test_images']:,} test images")
        answer.add_row("Test", text)
        answer.add_row("Looks", _looks(final["test_looks"], final["seal_broken"]))
        parts += ["", _against(result), ""]
    parts.append(_winner(result))
    title = Text.assemble((study.name, "bold"), f" - {_state(study)}")
    panel = Panel(Group(*parts), title=title, title_align="left", border_style="green")
    return Group(panel, *_places(study))


def _winner(result: dict[str, Any]) -> Table:
    table, best, budget = _grid(), result["best"], result["budget"]
    if best is not None:
        training, epochs = best["config"]["training"], (result["final"] or best)["epochs"]
        value = percent(best["val_accuracy"])
        table.add_row("Winner", f"{best['trial']} ({best['origin']}), validation accuracy {value}")
        if best["origin"].startswith("baseline "):
            table.add_row("", "the search found nothing better than this baseline")
        table.add_row("Network", describe_network(best["config"]))
        table.add_row(
            "Recipe",
            f"{training['optimizer']}, learning rate {training['learning_rate']:.3g}"
            f" ({training['schedule']}), batches of {training['batch_size']},"
            f" {plural(epochs, 'epoch')}",
        )
        table.add_row(
            "Cost",
            f"{best['parameters']:,} parameters, {best['multiply_adds'] / 1e6:.2f} million"
            " multiply-adds an image",
        )
    table.add_row(
        "Search",
        f"{plural(result['trials']['total'], 'trial')},"
        f" {plural(budget['trial_epochs'], 'epoch')} in {span(budget['search_seconds'])};"
        f" all stages {span(budget['wall_seconds'])}",
    )
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True, min_width=7)
    table.add_column()
    return table


def _against(result: dict[str, Any]) -> Table:
    table = columns(
        "Mean over seeds*", "Test>", "95 % interval>", "Std>", "Seeds>", "Winner leads>"
    )
    final = result["final"]
    for name, row in [("winner", final), *((row["name"], row) for row in result["baselines"])]:
        if row["test_accuracy"] is None:
            continue
        spread, lead = row["test_accuracy_std"], final["test_accuracy"] - row["test_accuracy"]
        table.add_row(
            name,
            percent(row["test_accuracy"]),
            _range(row["ci95"]),
            "-" if spread is None else f"{100 * spread:.2f}",
            str(row["seeds"]),
            "" if row is final else f"{100 * lead:+.2f} points",
            style="bold" if row is final else None,
        )
    return table


def _looks(count: int, broken: bool) -> str:
    text = f"{plural(count, 'look')} at the test set"
    return f"{text}; the seal was BROKEN: the accuracy is less honest" if broken else text


def _places(study: Study) -> list[Text]:
    folder = study.folder
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    files = {"Report": "report.html", "Numbers": "result.json", "Export": "export"}
    lines = [f"{k:12}{shown / name}" for k, name in files.items() if (folder / name).exists()]
    lines.append(f"{'TensorBoard':12}tensorboard --logdir {shown}")
    # Outside the panel, whose borders would be copied along, and broken at the last column only.
    return [Text(f"  {line}", overflow="fold") for line in lines]


def _range(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def _is_interrupted(study: Study) -> bool:
    return study.state == "searching" and not is_alive(study)


def _state(study: Study) -> str:
    return f"interrupted while {study.state}" if _is_interrupted(study) else study.state
