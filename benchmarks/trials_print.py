"""The figures of `trials.py` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.trials_record import PARTS


def print_all(answer: dict[str, Any], console: Console) -> None:
    """Print a table for every part that was measured, and under what conditions."""
    if one_core := answer.get("one_core"):
        console.print(_one_core(one_core))
    if one_core and "profile" in one_core:
        console.print(_profile(one_core["profile"]))
    if ray := answer.get("through_ray"):
        console.print(_through_ray(ray, answer["trials_per_hour_ratio"]))
        console.print(_starts(ray))
    of = answer["conditions"]
    console.print(
        f"{of['network']}, {of['epochs']} epochs of {of['images']} images (a tenth held out),"
        f" {of['rounds']} rounds, stock and ours in turn; {of['slots']} slots, {of['processor']},"
        f" torch {of['torch']}, Ray {of['ray']}; load {of['load']} before",
        highlight=False,
    )


def _one_core(found: dict[str, Any]) -> Table:
    ceiling = found["ceiling_gflops"]
    shown = _table(
        f"One trial on one core: {found['parameters']:,} parameters,"
        f" {found['multiply_adds']:,} multiply-adds an image",
        "",
        "precision",
        "images/s",
        "times stock",
        "GFLOP/s",
        "of the ceiling",
    )
    shown.caption = (
        f"median of all epochs but the first, training alone; ceiling: a matrix product of side"
        f" 1024, {ceiling['fp32']:.0f} GFLOP/s in fp32, {ceiling['bf16']:.0f} in bf16; an image is"
        " three forward passes of work; our memory: our workers' settings of glibc's allocator"
    )
    stock = found["kinds"]["stock"]["images_per_second"]
    for who, of in found["kinds"].items():
        shown.add_row(
            who,
            of["precision"],
            f"{of['images_per_second']:,.0f}",
            f"{of['images_per_second'] / stock:.2f}",
            f"{of['gflops']:.1f}",
            f"{of['share_of_ceiling']:.0%}",
        )
    return shown


def _profile(found: dict[str, dict[str, float]]) -> Table:
    shown = _table("Where an epoch goes, on one core", "", *_in_pairs(found))
    shown.caption = "clocks read around each piece; in a run that is not counted above"
    wholes = {who: sum(pieces.values()) for who, pieces in found.items()}
    for piece in next(iter(found.values())):
        cells = []
        for who, pieces in found.items():
            cells += [f"{pieces[piece]:.3f}", f"{pieces[piece] / wholes[who]:.1%}"]
        shown.add_row(piece, *cells)
    return shown


def _in_pairs(names: dict[str, Any]) -> Iterator[str]:
    for name in names:
        yield f"{name}, s"
        yield "share"


def _through_ray(found: dict[str, Any], ratio: float) -> Table:
    shown = _table(
        f"Trials an hour through Ray: ours {ratio:.2f} times the stock",
        "",
        "trials",
        "seconds",
        "trials/h",
        "of each round",
        "accuracy %",
        "sd",
    )
    mean, low, high = (100 * value for value in found["accuracy_ours_less_stock"])
    whole = {who: found[who]["with_ray_seconds"] for who in ("stock", "ours")}
    shown.caption = (
        "ours: bf16 where the hardware has it, screen quiet; stock: fp32; from when Ray is up until"
        " the last trial is over (with Ray's start and, for ours, its checks:"
        f" {whole['stock']:.1f} s and {whole['ours']:.1f} s); validation accuracy of the last"
        f" epoch, ours less stock {mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
        " (Welch)"
    )
    for who in ("stock", "ours"):
        of = found[who]
        shown.add_row(
            who,
            str(of["trials"]),
            f"{of['seconds']:.1f}",
            f"{of['trials_per_hour']:,.0f}",
            ", ".join(f"{value:,.0f}" for value in of["trials_per_hour_of_rounds"]),
            f"{100 * of['accuracy_mean']:.2f}",
            f"{100 * of['accuracy_sd']:.2f}",
        )
    return shown


def _starts(found: dict[str, Any]) -> Table:
    shown = _table("Time that is not trained in", "seconds", "count", "median", "max")
    shown.caption = (
        "to the first batch: from when the search hands a trial out; between two epochs: report"
        " and verdict, for ours the checkpoint and the way to the record too"
    )
    for who in ("stock", "ours"):
        rows = found[who]["start_seconds"] | {"epochs": found[who]["between_epochs_seconds"]}
        for name, of in rows.items():
            if of is not None:
                to = "between two epochs" if name == "epochs" else f"to the first batch, {name}"
                cells = (str(of["count"]), f"{of['median']:.3f}", f"{of['max']:.3f}")
                shown.add_row(f"{who}: {to}", *cells)
    return shown


def print_slots(found: dict[str, Any], console: Console) -> None:
    """Print where the time of a search's slots went."""
    wall = found["wall_seconds"]
    title = f"{found['study']}: {wall:.0f} s of search, by slot, in percent"
    shown = _table(title, "slot", "trials", "epochs", *PARTS)
    shown.caption = (
        "starting: from being handed out to the first epoch; between epochs: checkpoint, report,"
        " verdict; waiting: no trial, the start and the end of Ray too"
    )
    for name, slot in found["slots"].items():
        shares = [f"{100 * slot[part] / wall:.1f}" for part in PARTS]
        shown.add_row(name, f"{slot['trials']:.0f}", f"{slot['epochs']:.0f}", *shares)
    totals = (sum(slot[key] for slot in found["slots"].values()) for key in ("trials", "epochs"))
    shares = [f"{100 * found['share'][part]:.1f}" for part in PARTS]
    shown.add_row("all", *(f"{total:.0f}" for total in totals), *shares)
    console.print(shown)


def _table(title: str, *headings: str) -> Table:
    shown = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        shown.add_column(heading, justify="right")
    return shown
