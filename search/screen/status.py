"""How one study stands, and how all stand, as tables for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from search.record.view import View
from search.screen.screen import columns, frame
from search.screen.summary import is_interrupted, state_of, summary
from search.words import one_line, percent, plural

if TYPE_CHECKING:
    from search.record.study import Study


def status_table(study: Study) -> RenderableType:
    """Return how a study stands by its record, also while another process searches."""
    shown = frame(View.of(study), state=state_of(study), now=time.time())
    if study.state == "finished":
        return Group(shown, summary(study))
    race = study.noted("race")
    return Group(shown, _standing(race)) if race else shown


def studies_table(folders: Sequence[Path]) -> RenderableType:
    """Return one line a study; a folder that cannot be read gives its reason."""
    from search.record.study import StudyError, open_study
    from search.screen.result import build_result

    if not folders:
        return Text("no studies yet; start one: python -m search run --preset quickstart")
    table = columns("Study", "State*", "Data", "Trials>", "Valid.>", "Test>", "+->", "Looks>")
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
            "interrupted" if is_interrupted(study) else study.state,
            Text(one_line(str(result["dataset"]["name"]))),
            str(result["trials"]["total"]),
            percent(best.get("val_accuracy")),
            percent(final.get("test_accuracy")),
            _half(final.get("ci95")),
            _looks(final),
        )
    return Group(table, *refused)


def _half(bounds: list[float] | None) -> str:
    """Return half the width of an interval, in points."""
    return "-" if bounds is None else f"{50 * (bounds[1] - bounds[0]):.2f}"


def _looks(final: dict[str, Any]) -> str:
    """Return how often the test images were opened: beside every number they gave."""
    if not final:
        return "-"
    return f"{final['test_looks']}{' (broken)' if final['seal_broken'] else ''}"


def _standing(race: dict[str, Any]) -> RenderableType:
    """Return how the finalists stand, the best first."""
    table = columns(
        "Finalist", "Rounds>", "Mean>", "Std>", "P(best)>", "Search>", "Parameters>", "*"
    )
    rows = sorted(race["candidates"], key=lambda row: -(row["mean"] or 0.0))
    for row in rows:
        table.add_row(
            row["name"],
            str(len(row["values"])),
            percent(row["mean"]),
            "-" if row["sd"] is None else f"{100 * row['sd']:.2f}",
            "-" if row["p_best"] is None else f"{row['p_best']:.2f}",
            percent(row["search_value"]),
            f"{row['parameters']:,}",
            f"left after round {row['left_after']}" if row["left_after"] else "",
            style="bold" if row["name"] == race["chosen"] else None,
        )
    done = f"{plural(race['rounds'], 'round')} of at most {race['max_rounds']}"
    done += f", {race['chosen']} is chosen" if race["ended"] else ""
    title = Text.assemble(("finalists", "bold"), f" - {done}")
    return Panel(table, title=title, title_align="left", border_style="dim")
