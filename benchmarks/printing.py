"""The benchmark's figures as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from search.words import plural


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a table for each learning-curve table, and those of ranks over all of them."""
    conditions, ranks = summary["conditions"], summary["ranks"]
    for name, methods in summary["tables"].items():
        about = conditions["tables"][name]
        title = (
            f"{name}: {about['rows']} configurations, {about['epochs']} epochs, "
            f"best {about['best']:.4g} ({about['direction']})"
        )
        console.print(_regrets(title, methods))
    over = (
        f"{plural(len(conditions['tables']), 'table')}, {plural(conditions['seeds'], 'seed')}, "
        f"{conditions['workers']} workers"
    )
    console.print(_ranks(f"Mean rank by regret, 1 is best: {over}", ranks, None))
    for key in sorted({key for found in _first(ranks).values() for key in found if "minus" in key}):
        console.print(_ranks(f"Mean rank {key}, below 0 is better", ranks, key))


def _regrets(title: str, methods: dict[str, Any]) -> Table:
    table = _table(title)
    table.caption = "regret: mean +- standard error; to: median cost in full trainings of the seeds"
    table.caption += " and the share that got there; spent: in all, less where every row was run;"
    table.caption += " again: nearest row was taken"
    first = _first(methods)
    marks, targets = list(first["regret_mean"]), first["to_target"]
    for mark in marks:
        table.add_column(f"regret\nat {mark}", justify="right")
    for target, found in targets.items():
        value = f"to {found['value']:.5g}"
        name = target if target.startswith("top") else ""
        table.add_column(f"{name}\n{value}", justify="right")
    for heading in ("\nspent", "\ntrials", "\nagain", "ask p95\nms"):
        table.add_column(heading, justify="right")
    for method, of_method in methods.items():
        table.add_row(
            method,
            *(_plus_minus(of_method, mark) for mark in marks),
            *(_cost(of_method["to_target"][target]) for target in targets),
            f"{of_method['spent']:.0f}",
            f"{of_method['trials']:.0f}",
            f"{of_method['duplicates']:.0%}",
            f"{of_method['ask_p95_ms']:.1f}",
        )
    return table


def _plus_minus(of_method: dict[str, Any], mark: str) -> str:
    error = of_method["regret_sem"][mark]
    mean = f"{of_method['regret_mean'][mark]:.3g}"
    return mean if error is None else f"{mean} +- {error:.1g}"


def _cost(found: dict[str, float | None]) -> str:
    median, share = found["median"], found["share"]
    return f"{'-' if median is None else f'{median:.1f}'} ({share:.0%})"


def _ranks(title: str, ranks: dict[str, Any], difference: str | None) -> Table:
    table = _table(title)
    table.caption = "95 % bootstrap intervals over the seeds"
    for mark in ranks:
        table.add_column(f"at {mark}", justify="right")
    for method, of_method in _first(ranks).items():
        if difference is None:
            cells = [_interval(of_mark[method], "{:.2f}") for of_mark in ranks.values()]
        elif difference in of_method:
            cells = [
                _interval(of_mark[method][difference], "{:+.2f}") for of_mark in ranks.values()
            ]
        else:
            continue
        table.add_row(method, *cells)
    return table


def _interval(found: dict[str, Any], form: str) -> str:
    low, high = (form.format(edge) for edge in found["interval"])
    return f"{form.format(found['mean'])} ({low} to {high})"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    return table


def _first(entries: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(entries.values()))
    return found
