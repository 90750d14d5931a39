"""What the report says of the finalists' race: who ran, how it ended, whom it chose, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from search.record.study import Study
from search.report.figures import Figure, escaped, new_figure, points
from search.report.formats import interval, percent, short
from search.report.formats import points as in_points
from search.words import plural

_ROW = 58  # pixels of a candidate in the figure


def race_facts(study: Study) -> dict[str, Any]:
    """Return the race with an interval and a place for each candidate, or why there is none."""
    race = study.noted("race")
    if not race or not any(row["values"] for row in race["candidates"]):
        return {"race": None, "no_race": _why_none(study), "race_words": [], "chosen_by": ""}
    intervals = _intervals([row["values"] for row in race["candidates"]])
    rows = [
        dict(row) | {"ci95": ci95, "rounds": len(row["values"]), "state": _state(row, race)}
        for row, ci95 in zip(race["candidates"], intervals, strict=True)
    ]
    # By the mean that is compared: without the luck of the rounds that not everybody was in.
    rows.sort(key=lambda row: -_compared(row))
    found = dict(race) | {"candidates": rows}
    return {
        "race": found,
        "no_race": "",
        "race_words": _words(found),
        "chosen_by": _chosen_by(found),
    }


def _compared(row: Mapping[str, Any]) -> float:
    value = row.get("adjusted_mean")
    value = row["mean"] if value is None else value
    return -1.0 if value is None else float(value)


def _why_none(study: Study) -> str:
    if not study.config.final.finalists:
        return "The race was off (final.finalists: 0): the search's best is taken as it is."
    return ""


def _state(row: Mapping[str, Any], race: Mapping[str, Any]) -> str:
    if row["name"] == race["chosen"]:
        return "chosen"
    if row["left_after"] is not None:
        return "left"
    return "in it to the end" if race["ended"] else "in it"


def _intervals(values: Sequence[Sequence[float | None]]) -> list[list[float] | None]:
    """Return Student's interval of each mean, its variance pooled over the candidates."""
    known = [[value for value in row if value is not None] for row in values]
    means = [sum(row) / len(row) if row else math.nan for row in known]
    squares = sum((v - m) ** 2 for row, m in zip(known, means, strict=True) for v in row)
    freedom = sum(len(row) - 1 for row in known if row)
    if not freedom:
        return [None] * len(known)
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(squares / freedom)
    return [
        [mean - half / math.sqrt(len(row)), mean + half / math.sqrt(len(row))] if row else None
        for row, mean in zip(known, means, strict=True)
    ]


def _words(race: Mapping[str, Any]) -> list[str]:
    """Return why the race ended, who was chosen and why, and the optimism of the search."""
    rows = race["candidates"]
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in ("finalist", "baseline")}
    who = " and ".join(plural(number, kind) for kind, number in kinds.items() if number)
    if not race["ended"]:
        done, most = plural(race["rounds"], "round"), race["max_rounds"]
        return [f"The race of {who} is not over: {done} of at most {most} done."]
    words = [
        f"The race of {who} ended after {race['rounds']} of at most"
        f" {plural(race['max_rounds'], 'round')}: {race['ended'].rstrip('.')}.",
        f"Chosen: {race['chosen']}, because {race['reason'].rstrip('.')}.",
    ]
    if found := race["optimism"]:
        gap, bounds = found["optimism"], found["ci95"]
        words.append(
            f"The search saw {percent(found['search_value'])} of {found['trial']}, its best;"
            f" trained again it had {percent(found['remeasured'])} in the mean: the search was"
            f" {in_points(abs(gap))} points too {'high' if gap >= 0 else 'low'} (optimism"
            f" {in_points(gap, sign=True)}, 95% interval {in_points(bounds[0], sign=True)} to"
            f" {in_points(bounds[1], sign=True)})."
        )
    return words


def _chosen_by(race: Mapping[str, Any]) -> str:
    if not race["ended"]:
        return ""
    row = next(row for row in race["candidates"] if row["name"] == race["chosen"])
    if len(race["candidates"]) == 1:
        return f"Trained again over {plural(race['rounds'], 'round')}; nobody else was raced."
    if race["chosen"] != race["leader"]:
        return (
            f"Chosen by a race of {plural(len(race['candidates']), 'candidate')}: the smallest"
            f" within one standard error of {race['leader']}, which has the highest mean."
        )
    sure = "" if row["p_best"] is None else f", the best with probability {row['p_best']:.2f}"
    return (
        f"Chosen by a race of {plural(len(race['candidates']), 'candidate')} over"
        f" {plural(race['rounds'], 'round')}{sure}."
    )


def race_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figure of the race: one row a candidate, its rounds from top to bottom."""
    race = facts["race"]
    if race is None:
        return {}
    rows = race["candidates"]
    most = max(row["rounds"] for row in rows)
    data = _links(rows)
    for kind, name, colour in (
        ("chosen", "chosen: mean, 95% interval", "var(--best)"),
        ("finalist", "finalist", "var(--complete)"),
        ("baseline", "baseline", "var(--baseline)"),
        ("left", "left the race", "var(--stopped)"),
    ):
        some = [(place, row) for place, row in enumerate(rows) if _kind(row) == kind]
        data.append(_rounds(some, colour, most))
        data.append(_means(some, name, colour))
    data.append(_search_values(rows))
    layout = {
        "xaxis": {"ticksuffix": "%", "nticks": 8},
        "yaxis": {
            "range": [len(rows) - 0.45, -0.55],
            "tickvals": list(range(len(rows))),
            "ticktext": [_label(row) for row in rows],
            "showgrid": False,
        },
    }
    label = (
        "Each candidate's accuracy by round, its mean with a 95% interval, and the search's value"
    )
    return {"race": new_figure(label, data, layout, height=70 + _ROW * len(rows))}


def _label(row: Mapping[str, Any]) -> str:
    size = f"{short(row['parameters'])} par."
    return f"{escaped(row['name'])}<br>{size}"


def _kind(row: Mapping[str, Any]) -> str:
    if row["state"] == "chosen":
        return "chosen"
    return "left" if row["state"] == "left" else str(row["kind"])


def _means(rows: Sequence[tuple[int, Mapping[str, Any]]], name: str, colour: str) -> Figure | None:
    some = [(place, row) for place, row in rows if row["mean"] is not None]
    text = [
        f"{row['name']}: mean {percent(row['mean'])} of {plural(row['rounds'], 'round')}"
        + (f"\n95% interval {interval(row['ci95'])}" if row["ci95"] else "")
        for _, row in some
    ]
    low = [100 * (row["mean"] - row["ci95"][0]) if row["ci95"] else 0 for _, row in some]
    bars = {"type": "data", "array": low, "color": colour, "thickness": 2, "width": 5}
    x, y = [100 * row["mean"] for _, row in some], [place for place, _ in some]
    return points(name, x, y, text, colour, size=13, error_x=bars)


def _rounds(rows: Sequence[tuple[int, Mapping[str, Any]]], colour: str, most: int) -> Figure | None:
    cells = [
        (place, number, value, row["name"])
        for place, row in rows
        for number, value in enumerate(row["values"], start=1)
        if value is not None
    ]
    # Rounds stand below each other, so that one sees which of them were lucky for everybody.
    step = 0.62 / max(most - 1, 1)
    y = [place - 0.31 + step * (number - 1) for place, number, *_ in cells]
    x = [100 * value for *_, value, _ in cells]
    text = [f"{name}, round {number}: {percent(value)}" for _, number, value, name in cells]
    return points("one round", x, y, text, colour, symbol="line-ns", size=9, opacity=0.75)


def _links(rows: Sequence[Mapping[str, Any]]) -> list[Figure | None]:
    x: list[float | None] = []
    y: list[int | None] = []
    for place, row in enumerate(rows):
        if row["optimism"] is not None:
            x += [100 * row["mean"], 100 * row["search_value"], None]
            y += [place, place, None]
    style: Any = {"mode": "lines", "width": 1.2, "dash": "dot", "size": 1, "hoverinfo": "skip"}
    return [points("optimism", x, y, [""] * len(x), "var(--muted)", **style)]


def _search_values(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    x = [100 * row["search_value"] for row in rows]
    text = [
        f"{row['name']}, in the search: {percent(row['search_value'])} after"
        f" {plural(row['search_epochs'], 'epoch')}"
        + (
            f"\noptimism {in_points(row['optimism'], sign=True)}"
            if row["optimism"] is not None
            else ""
        )
        for row in rows
    ]
    y = list(range(len(rows)))
    name = "the search's value"
    return points(name, x, y, text, "var(--ink)", symbol="diamond-open", size=11)
