"""Figures of the report about the course of a search: learning curves, attempts in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.record.study import Trial
from search.report.figures import CROWD, Figure, escaped, frame, new_figure, points

COLOURS = {
    "complete": "var(--complete)",
    "pruned": "var(--stopped)",
    "running": "var(--running)",
    "infeasible": "var(--infeasible)",
    "failed": "var(--failed)",
    "lost": "var(--baseline)",
    "stopped": "var(--running)",
    "paused": "var(--muted)",
}
"""By outcome of a trial or of an attempt."""
_DASHES = ("dash", "dot", "dashdot", "longdash")


def course_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of the search's course that have data, by name."""
    found = {
        "curves": _curves(facts["trials"], facts["best"], facts["winner"]),
        "timeline": _timeline(facts["bars"], facts["joins"]),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _curves(trials: Sequence[Trial], best: Trial | None, winner: Trial | None) -> Figure | None:
    scored = [trial for trial in trials if trial.value is not None]
    if not scored:
        return None
    bold = [
        (trial, name, colour, width)
        for trial, name, colour, width in (
            (best, "best of the search", "var(--ink)", 2.5),
            (winner, "chosen", "var(--best)", 4),
        )
        if trial is not None
    ]
    if best is not None and (winner is None or winner.number == best.number):
        bold = [(best, "best", "var(--best)", 4)]
    numbers = {trial.number for trial, *_ in bold}
    others = [trial for trial in scored if trial.number not in numbers]
    baselines = [trial for trial in others if trial.origin.startswith("baseline")]
    data = []
    for outcome, name, width, opacity in (
        ("pruned", "pruned", 1.2, 0.75),
        ("infeasible", "infeasible", 1.0, 0.8),
        ("failed", "failed", 1.0, 0.8),
        ("running", "running", 1.4, 0.9),
        ("complete", "complete", 1.4, 0.75),
    ):
        some = [trial for trial in others if trial.outcome == outcome and trial not in baselines]
        data.append(_lines(some, name, COLOURS[outcome], width=width, opacity=opacity, size=4))
    for index, trial in enumerate(baselines):
        dash = _DASHES[index % len(_DASHES)]
        data.append(_lines([trial], trial.origin, "var(--baseline)", width=2, size=6, dash=dash))
    for trial, name, colour, thick in bold:
        data.append(_lines([trial], f"{name}: {trial.name}", colour, width=thick, size=9))
    values = [100 * row.val_accuracy for t in scored for row in t.epochs if row.val_accuracy]
    bounds, below = frame(values)
    layout: Figure = {
        "xaxis": {"title": {"text": "epoch"}, "tick0": 1, "minallowed": 0, "tickformat": "d"},
        "yaxis": {"range": bounds, "ticksuffix": "%"},
        "dragmode": "zoom",
    }
    longest = max(row.epoch for trial in scored for row in trial.epochs)
    if longest <= 12:
        layout["xaxis"]["dtick"] = 1
    note = f"{below} of {len(values)} values lie below the frame." if below else ""
    label = "Validation accuracy of every trial, by epoch"
    return new_figure(label, data, layout, height=430, note=note)


def _lines(
    trials: Sequence[Trial], name: str, colour: str, *, size: float, width: float, **style: Any
) -> Figure | None:
    # One trace for many trials, with gaps between them: hundreds of traces would be slow.
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        for row in trial.epochs:
            value = None if row.val_accuracy is None else 100 * row.val_accuracy
            x.append(row.epoch)
            y.append(value)
            shown = "no value" if value is None else f"{value:.2f}%"
            text.append(f"{trial.name}, {trial.origin}\nepoch {row.epoch}: {shown}")
        x.append(None)
        y.append(None)
        text.append("")
    thin = CROWD / max(CROWD, len(trials))
    return points(
        name,
        x,
        y,
        text,
        colour,
        mode="lines+markers",
        size=size * thin**0.5,
        width=width * thin**0.5,
        **style,
    )


def _timeline(bars: Sequence[Mapping[str, Any]], joins: Sequence[float]) -> Figure | None:
    if not bars:
        return None
    longest = max(bar["start"] + bar["seconds"] for bar in bars)
    unit, size = ("min", 60.0) if longest > 180 else ("s", 1.0)
    unit, size = ("h", 3600.0) if longest > 3 * 3600 else (unit, size)
    gap = 1 if len(bars) <= 200 else 0  # an outline would cover the thin bars of many trials
    slots = list(dict.fromkeys(bar["slot"] for bar in bars))
    data: list[Figure | None] = []
    for outcome in dict.fromkeys(bar["outcome"] for bar in bars):
        some = [bar for bar in bars if bar["outcome"] == outcome]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": outcome,
                "base": [bar["start"] / size for bar in some],
                "x": [bar["seconds"] / size for bar in some],
                "y": [escaped(bar["slot"]) for bar in some],
                "text": [str(bar["trial"]) for bar in some],
                "hovertext": [escaped(bar["words"]) for bar in some],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "textfont": {"color": "var(--panel)"},
                "marker": {
                    "color": COLOURS.get(outcome, "var(--stopped)"),
                    "line": {"color": "var(--panel)", "width": gap},
                },
            }
        )
    dash = {"color": "var(--ink)", "width": 1, "dash": "dot"}
    lines = [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": dash} for _ in joins]
    layout = {
        "barmode": "overlay",
        "bargap": 0.25,
        "uniformtext": {"mode": "hide", "minsize": 8},
        "xaxis": {"title": {"text": f"time searched, {unit}"}, "rangemode": "tozero"},
        "yaxis": {
            "type": "category",
            "categoryarray": [escaped(slot) for slot in reversed(slots)],
            "showgrid": False,
        },
        "shapes": [
            line | {"x0": at / size, "x1": at / size} for line, at in zip(lines, joins, strict=True)
        ],
    }
    return new_figure("Attempts by slot", data, layout, height=100 + 34 * len(slots))
