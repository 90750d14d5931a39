"""Figures of the report about the searched parameters: importance, slices, parallel axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.explain.importance import importance as importance
from search.record.study import Study, Trial
from search.report.course import COLOURS
from search.report.figures import CROWD, Figure, escaped, frame, new_figure, points

_HOVERED = 30  # characters of a value in a label
MOST_POINTS = 400
"""Trials drawn as points of the space, the best ones: a page must stay small enough to open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A searched parameter as an axis."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    """Of a categorical parameter, in order; empty for a number."""

    def place(self, value: Any) -> float:
        """Return where a value lies between the lowest (0) and the highest (1)."""
        if self.choices:
            last = len(self.choices) - 1
            return self.choices.index(value) / last if last else 0.5
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def edge(self, value: Any) -> str:
        """Return `lowest` or `highest` for a number at the end of what is allowed, else nothing."""
        if value == 0 or (self.whole and self.high - self.low < 2):
            return ""  # nothing is below no dropout, and of two values both are ends
        numbers = [c for c in self.choices if isinstance(c, int | float) and c not in (True, False)]
        if len(numbers) != len(self.choices) or len(numbers) == 2:
            return ""
        if numbers:
            return {min(numbers): "lowest", max(numbers): "highest"}.get(value, "")
        place = self.place(value)
        return "lowest" if place <= 0.02 else "highest" if place >= 0.98 else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A trial as a point of the space."""

    trial: Trial
    params: Mapping[str, Any]


def space_points(study: Study, trials: Sequence[Trial]) -> list[Point]:
    """Return the best trials with their parameters; baselines lie outside the space."""
    frozen = study.optuna.get_trials(deepcopy=False)
    points = [
        Point(trial=trial, params=frozen[trial.number].params)
        for trial in trials
        if trial.value is not None and not trial.origin.startswith("baseline")
    ]
    return sorted(points, key=lambda point: -(point.trial.value or 0))[:MOST_POINTS]


def axes(study: Study, found: Sequence[Point]) -> list[Axis]:
    """Return the parameters that took at least two values, in order of the space."""
    kinds: dict[str, Any] = {}
    for frozen in study.optuna.get_trials(deepcopy=False):
        kinds |= frozen.distributions
    axes = []
    for name in study.config.search_space().parameter_names():
        taken = {repr(point.params[name]) for point in found if name in point.params}
        if name not in kinds or len(taken) < 2:
            continue
        kind = kinds[name]
        choices = tuple(getattr(kind, "choices", ()))
        if choices:
            axes.append(Axis(name=name, choices=choices))
        else:
            whole = isinstance(kind.low, int)
            axes.append(Axis(name=name, low=kind.low, high=kind.high, log=kind.log, whole=whole))
    return axes


def space_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures about the space that have data, by name."""
    figures: dict[str, Figure] = {}
    if facts["importance"]:
        figures["importance"] = _bars(facts["importance"])
    if facts["axes"]:
        figures["parallel"] = _parallel(facts["points"], facts["axes"], facts["best"])
    for axis in facts["axes"]:
        figures[f"slice-{axis.name}"] = _slice(axis, facts["points"], facts["best"])
    return figures


def _bars(values: Mapping[str, float]) -> Figure:
    names = list(values)[::-1]
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [escaped(name) for name in names],
        "x": [100 * values[name] for name in names],
        "text": [f"{100 * values[name]:.0f}%" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.1f}%<extra></extra>",
        "marker": {"color": "var(--best)"},
    }
    layout = {
        "xaxis": {"ticksuffix": "%", "range": [0, 112 * max(values.values())]},
        "yaxis": {"showgrid": False, "type": "category"},
        "bargap": 0.35,
    }
    return new_figure("Importance of each parameter", [bar], layout, height=60 + 26 * len(names))


def _slice(axis: Axis, found: Sequence[Point], best: Trial | None) -> Figure:
    here = [point for point in found if axis.name in point.params]
    data = []
    for kind, size, opacity in (("pruned", 6, 0.8), ("complete", 7, 0.9), ("best", 11, 1.0)):
        some = [point for point in here if _kind(point, best) == kind]
        places = [
            axis.choices.index(p.params[axis.name]) + 0.5 * (p.trial.number * 0.618 % 1 - 0.5)
            if axis.choices
            else p.params[axis.name]
            for p in some
        ]
        data.append(
            points(
                kind,
                places,
                [100 * (p.trial.value or 0) for p in some],
                [f"{_named(p)}\n{axis.name} = {_short(p.params[axis.name])}" for p in some],
                COLOURS.get(kind, "var(--best)"),
                size=size,
                opacity=opacity,
            )
        )
    bounds, _ = frame([100 * (point.trial.value or 0) for point in found])
    layout = {
        "xaxis": _ticks(axis),
        "yaxis": {"range": bounds, "nticks": 5},
        "margin": {"l": 34, "r": 10, "t": 8, "b": 30},
    }
    label = f"Validation accuracy by {axis.name}"
    return new_figure(label, data, layout, height=190) | {"legend": []}  # one for all slices


def _ticks(axis: Axis) -> Figure:
    if axis.choices:
        ticks = [escaped(_short(choice)) for choice in axis.choices]
        places = {"tickvals": list(range(len(ticks))), "ticktext": ticks, "tickangle": 0}
        return places | {"range": [-0.5, len(ticks) - 0.5]}
    if axis.log:
        steps = (1,) if axis.high / axis.low > 30 else (1, 2, 5)
        low, high = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
        found = [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]
        inside = [value for value in found if axis.low <= value <= axis.high]
        ticks = [f"{value:g}" for value in inside]
        return {"type": "log", "tickvals": inside, "ticktext": ticks, "tickangle": 0}
    if axis.whole and axis.high - axis.low <= 6:
        return {"dtick": 1}
    return {"nticks": 5}


def _parallel(found: Sequence[Point], along: Sequence[Axis], best: Trial | None) -> Figure:
    values = [100 * (point.trial.value or 0) for point in found]
    (low, high), below = frame(values)
    shown = Axis(name="validation accuracy", low=low, high=high)
    rows = [shown, *along]
    fence = sorted(values)[int(0.75 * len(values))] if len(values) >= 4 else 101.0
    groups: dict[str, list[Point]] = {"others": [], "best quarter": [], "best": []}
    for point, value in zip(found, values, strict=True):
        chosen = _kind(point, best) == "best"
        groups["best" if chosen else "best quarter" if value >= fence else "others"].append(point)
    data = []
    for (name, some), colour, width, opacity in zip(
        groups.items(),
        ("var(--stopped)", "var(--complete)", "var(--best)"),
        (1.0, 1.6, 3.5),
        (0.6, 0.85, 1.0),
        strict=True,
    ):
        x: list[float | None] = []
        y: list[int | None] = []
        text: list[str] = []
        for point in some:
            row = {shown.name: max(low, 100 * (point.trial.value or 0)), **point.params}
            for place, axis in enumerate(rows):
                known = axis.name in row
                nudge = 0.03 * (point.trial.number * 0.618 % 1 - 0.5) if axis.choices else 0.0
                x.append(axis.place(row[axis.name]) + nudge if known else None)
                y.append(place)
                setting = _short(row[axis.name]) if known and place else ""
                text.append(f"{_named(point)}" + (f"\n{axis.name} = {setting}" if place else ""))
            x.append(None)
            y.append(None)
            text.append("")
        thin = (CROWD / max(CROWD, len(some))) ** 0.5
        style: Any = {"size": (8 if name == "best" else 4) * thin, "width": width * thin}
        style |= {"mode": "lines+markers", "opacity": opacity}
        data.append(points(name, x, y, text, colour, **style))
    notes = [mark for place, axis in enumerate(rows) for mark in _marks(place, axis)]
    layout = {
        "xaxis": {"range": [-0.04, 1.04], "showticklabels": False, "showgrid": False},
        "yaxis": {
            "range": [len(rows) - 0.4, -0.4],
            "tickvals": list(range(len(rows))),
            "ticktext": [escaped(axis.name.replace("validation ", "val. ")) for axis in rows],
        },
        "annotations": notes,
    }
    note = f"{below} trials below {low:.1f}% are drawn at its left end." if below else ""
    label = "Each trial as a line through its parameters"
    row_height = max(28, min(46, 860 // len(rows)))  # all of it on one printed page
    return new_figure(label, data, layout, height=60 + row_height * len(rows), note=note)


def _marks(place: int, axis: Axis) -> list[Figure]:
    # The values at the ends of an axis, or its choices, written under it.
    marks = [(0.0, axis.low), (1.0, axis.high)]
    if axis.choices:
        marks = [(axis.place(choice), choice) for choice in axis.choices]
        if sum(len(_short(choice)) for choice in axis.choices) > 40:
            marks = [marks[0], marks[-1]]
    suffix = "" if place else "%"
    return [
        {
            "x": x,
            "y": place + 0.33,
            "text": escaped((f"{value:.1f}" if not place else _short(value)) + suffix),
            "showarrow": False,
            "xanchor": "left" if x < 0.02 else "right" if x > 0.98 else "center",
            "font": {"size": 10, "color": "var(--muted)"},
            "bgcolor": "var(--panel)",
            "borderpad": 0,
        }
        for x, value in marks
    ]


def _kind(point: Point, best: Trial | None) -> str:
    if best is not None and point.trial.number == best.number:
        return "best"
    return "complete" if point.trial.outcome == "complete" else "pruned"


def _named(point: Point) -> str:
    return f"{point.trial.name}: {100 * (point.trial.value or 0):.2f}%"


def _short(value: Any) -> str:
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return shown if len(shown) <= _HOVERED else shown[: _HOVERED - 3] + "..."
