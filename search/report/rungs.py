"""What the report says of ASHA's rungs: who got there, who went on, and a figure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from search.record.study import Study, Trial, trial_name
from search.record.view import View
from search.report.figures import Figure, frame, new_figure, points
from search.words import plural

_KINDS = (
    ("went on", ("continue", "promote"), "var(--best)", "circle"),
    ("stopped", ("stop",), "var(--failed)", "x-thin"),
    ("paused", ("pause",), "var(--muted)", "circle"),
    ("audited", ("audit",), "var(--baseline)", "diamond-open"),
)


def rung_facts(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the rungs, and every trial that was stopped at one or never promoted from one."""
    decisions = study.record.decisions()
    cutoffs = {(d["bracket"], d["rung"]): d["cutoff"] for d in decisions if d["cutoff"] is not None}
    rows = [
        asdict(row) | {"cutoff": cutoffs.get((row.bracket, row.rung)), "name": name}
        for row in View.of(study).rung_rows()
        for name in [_name(study, row.bracket, row.rung)]
    ]
    last = {d["trial"]: d for d in decisions}
    stops = []
    for number, row in last.items():
        if row["action"] == "stop":
            stops.append(row | {"name": trial_name(number)})
        elif row["action"] == "pause" and trials[number].outcome == "pruned":
            reason = trials[number].reason
            stops.append(row | {"name": trial_name(number), "reason": reason})
    return {
        "decisions": decisions,
        "rungs": rows if any(row["reached"] for row in rows) else [],
        "stops": sorted(stops, key=lambda d: (-d["rung"], -(d["value"] or 0.0), d["trial"])),
    }


def rung_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figure of the rungs, if any trial has got to one."""
    decisions = facts["decisions"]
    last = {(d["bracket"], d["rung"], d["trial"]): d for d in decisions if d["value"] is not None}
    if not last:
        return {}
    places = [(row["bracket"], row["rung"]) for row in facts["rungs"]]
    size = 8 if len(last) <= 300 else 5
    data = []
    for name, actions, colour, symbol in _KINDS:
        # Spread by the golden ratio in order of arrival, so that points do not hide each other.
        some = [
            (places.index((d["bracket"], d["rung"])) + 0.7 * (k * 0.618 % 1 - 0.5), d)
            for k, d in enumerate(last.values())
            if d["action"] in actions
        ]
        y = [100 * d["value"] for _, d in some]
        text = [
            f"{trial_name(d['trial'])}: {100 * d['value']:.2f}%\n{d['reason']}"
            + (f"\ncutoff {100 * d['cutoff']:.2f}%" if d["cutoff"] is not None else "")
            for _, d in some
        ]
        data.append(points(name, [x for x, _ in some], y, text, colour, symbol=symbol, size=size))
    cutoffs = [
        (index, 100 * row["cutoff"])
        for index, row in enumerate(facts["rungs"])
        if row["cutoff"] is not None
    ]
    x = [v for index, _ in cutoffs for v in (index - 0.4, index + 0.4, None)]
    y = [v for _, cutoff in cutoffs for v in (cutoff, cutoff, None)]
    text = [f"last cutoff {value:.2f}%" if value else "" for value in y]
    data.append(
        points("last cutoff", x, y, text, "var(--ink)", mode="lines", width=1.5, dash="dot")
    )
    bounds, below = frame([100 * d["value"] for d in last.values()])
    ticks = {
        "tickvals": list(range(len(places))),
        "ticktext": [row["name"] for row in facts["rungs"]],
        "showgrid": False,
    }
    layout = {
        "xaxis": ticks | {"range": [-0.5, len(places) - 0.5]},
        "yaxis": {"range": bounds, "ticksuffix": "%"},
    }
    note = f"{below} of {len(last)} values lie below the frame." if below else ""
    label = "Best value of each trial when it got to a rung, and whether it went on"
    return {"rungs": new_figure(label, data, layout, height=350, note=note)}


def _name(study: Study, bracket: int, rung: int) -> str:
    name = plural(rung, "epoch")
    return f"{name}, bracket {bracket}" if study.config.asha.brackets > 1 else name
