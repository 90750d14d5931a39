"""Figures of the report, as plain Plotly JSON: no Plotly is imported, the page draws them.

Accuracies are in percent here. A colour is the name of one of the page's CSS variables, put in
when the page draws, so that one figure serves light, dark and paper. Text that a person wrote is
escaped: Plotly reads HTML in labels.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.evaluate import wilson_interval

Figure = dict[str, Any]
"""`label` (what it shows, in words), `data`, `layout`, `height` in pixels, `note`, `legend`."""


_DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "12 4"}
"""Names of dashes in Plotly and in SVG."""
CROWD = 50
"""Lines of one kind above which they are drawn thinner."""


def result_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of the final models that have data, by name."""
    found = {
        "answer": _answer(facts["answer"], facts["comparable"]),
        "reliability": _reliability(facts["evaluation"]),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def new_figure(
    label: str, data: Iterable[Figure | None], layout: Figure, *, height: int, note: str = ""
) -> Figure:
    """Return a figure; parts that are None are left out."""
    parts = [part for part in data if part is not None]
    figure = {"label": label, "data": parts, "layout": layout, "height": height, "note": note}
    # The page draws the legend itself: Plotly's takes a phone's width from the figure.
    return figure | {"legend": [_entry(part) for part in parts] if len(parts) > 1 else []}


def _entry(part: Figure) -> dict[str, str]:
    if part["type"] == "bar":
        return {"name": part["name"], "colour": part["marker"]["color"], "shape": "bar"}
    shape = "line" if "lines" in part["mode"] else part["marker"]["symbol"]
    dash = _DASHES.get(part["line"]["dash"], "")
    name = html.unescape(part["name"].replace("<br>", " "))
    return {"name": name, "colour": part["marker"]["color"], "shape": shape, "dash": dash}


def points(
    name: str,
    x: Sequence[Any],
    y: Sequence[Any],
    text: Sequence[str],
    colour: str,
    *,
    mode: str = "markers",
    size: float = 7,
    symbol: str = "circle",
    **more: Any,
) -> Figure | None:
    """Return one scatter trace with a hover text for each point, or None without points."""
    if not x:
        return None
    stroke = 2 if symbol in ("x-thin", "line-ns") else 0
    marker = {"color": colour, "size": size, "symbol": symbol}
    return {
        "type": "scatter",
        "mode": mode,
        "name": escaped(name),
        "x": list(x),
        "y": list(y),
        "text": [escaped(words) for words in text],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker | {"line": {"color": colour, "width": stroke}},
        "line": {"color": colour, "width": more.pop("width", 1.5), "dash": more.pop("dash", None)},
    } | more


def escaped(text: str) -> str:
    """Return text as Plotly shows it literally, wrapped for a phone's hover label."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line[:300], 46)]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def frame(values: Sequence[float]) -> tuple[list[float], int]:
    """Return the range of an axis of percents, and how many values lie below it.

    A few very low values must not press the others into a line.
    """
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    usual = ordered[len(ordered) // 10]
    if high - low > 1.6 * (high - usual):
        low = usual
    pad = max(0.05 * (high - low), 0.05)
    return [low - pad, high + pad], sum(value < low - pad for value in ordered)


def _answer(rows: Sequence[Mapping[str, Any]], comparable: bool) -> Figure | None:
    rows = [row for row in reversed(rows) if row["test_accuracy"] is not None]
    if not rows:
        return None
    data = []
    for kind, name, colour in (
        ("baseline", "baseline, 95% interval", "var(--baseline)"),
        ("winner", "winner, 95% interval", "var(--best)"),
    ):
        some = [row for row in rows if row["kind"] == kind]
        means = [row["test_accuracy"] for row in some]
        bars: Figure = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 6}
        bars["color"] = "var(--ink)"
        bars["array"] = [100 * (r["ci95"][1] - r["test_accuracy"]) for r in some]
        bars["arrayminus"] = [100 * (r["test_accuracy"] - r["ci95"][0]) for r in some]
        names = [row["name"] for row in some]
        data.append(_shares(name, means, names, "mean", colour, size=13, error_x=bars))
    seeds = [(value, row["name"]) for row in rows for value in row["accuracies"]]
    known = [(r["published"], r["name"]) for r in rows if comparable and r["published"]]
    for name, some_shares, symbol in (
        ("one seed", seeds, "line-ns"),
        ("published, one training", known, "diamond-open"),
    ):
        values, names = [v for v, _ in some_shares], [n for _, n in some_shares]
        data.append(_shares(name, values, names, name, "var(--ink)", size=9, symbol=symbol))
    order = [escaped(row["name"]) for row in rows]
    layout = {
        "xaxis": {"ticksuffix": "%"},
        "yaxis": {"showgrid": False, "type": "category", "categoryarray": order},
    }
    label = "Test accuracy of the winner and the baselines, with 95% intervals"
    return new_figure(label, data, layout, height=80 + 44 * len(rows))


def _shares(
    name: str,
    shares: Sequence[float],
    rows: Sequence[str],
    what: str,
    colour: str,
    **style: Any,
) -> Figure | None:
    x = [100 * share for share in shares]
    text = [f"{row}, {what}: {value:.2f}%" for row, value in zip(rows, x, strict=True)]
    return points(name, x, [escaped(row) for row in rows], text, colour, **style)


def _reliability(evaluation: Mapping[str, Any] | None) -> Figure | None:
    bins = [b for b in (evaluation or {}).get("reliability", []) if b["num_images"]]
    if not bins:
        return None
    x = [100 * b["confidence"] for b in bins]
    y = [100 * b["accuracy"] for b in bins]
    bounds = [
        wilson_interval(round(b["accuracy"] * b["num_images"]), b["num_images"]) for b in bins
    ]
    interval = {"type": "data", "symmetric": False, "color": "var(--best)", "thickness": 1}
    interval["array"] = [100 * high - v for (_, high), v in zip(bounds, y, strict=True)]
    interval["arrayminus"] = [v - 100 * low for (low, _), v in zip(bounds, y, strict=True)]
    text = [
        f"confidence {c:.1f}%, right {a:.1f}%\n{b['num_images']} images"
        for c, a, b in zip(x, y, bins, strict=True)
    ]
    counts = [b["num_images"] for b in bins]
    middles = [50 * (b["low"] + b["high"]) for b in bins]
    data = [
        points("as sure as right", [0, 100], [0, 100], ["", ""], "var(--muted)", mode="lines",
               dash="dash", hoverinfo="skip"),
        points("bins, 95% interval", x, y, text, "var(--best)", mode="lines+markers",
               error_y=interval),
        {"type": "bar", "name": "images", "x": middles, "y": counts, "yaxis": "y2",
         "marker": {"color": "var(--stopped)"}, "width": 90 / 15,
         "hovertemplate": "%{y} images<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "confidence, %"}, "range": [0, 101], "anchor": "y2"},
        "yaxis": {"domain": [0.3, 1], "range": [0, 103], "title": {"text": "right, %"}},
        "yaxis2": {"domain": [0, 0.2], "nticks": 3, "title": {"text": "images"}},
    }
    return new_figure("Confidence against accuracy on the test images", data, layout, height=390)
