"""Figures of the report, as plain Plotly JSON: no Plotly is imported, the page draws them.

Accuracies are in percent here. A colour is the name of one of the page's CSS variables, put in
when the page draws, so that one figure serves light, dark and paper. Text that a person wrote is
escaped: Plotly reads HTML in labels.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

Figure = dict[str, Any]
"""`label` (what it shows, in words), `data`, `layout`, `height` in pixels, `note`, `legend`."""


_DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "12 4"}
"""Names of dashes in Plotly and in SVG."""
CROWD = 50
"""Lines of one kind above which they are drawn thinner."""


def new_figure(
    label: str, data: Iterable[Figure | None], layout: Figure, *, height: int, note: str = ""
) -> Figure:
    """Return a figure; parts that are None are left out."""
    parts = [part for part in data if part is not None]
    figure = {"label": label, "data": parts, "layout": layout, "height": height, "note": note}
    # The page draws the legend itself: Plotly's takes a phone's width from the figure.
    return figure | {"legend": _legend(parts)}


def _legend(parts: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return an entry a name, with the numbers of its parts; nothing where there is one name."""
    named: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        named.setdefault(part.get("name", ""), []).append(number)
    if len(named) < 2:
        return []
    return [_entry(parts[numbers[0]]) | {"parts": numbers} for numbers in named.values()]


def _entry(part: Figure) -> dict[str, Any]:
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


def escaped(text: str, width: int = 46) -> str:
    """Return text as Plotly shows it literally, wrapped: to fit a phone's hover label, as it is."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line[:300], width)]
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
