"""What the report says of the pruning audit, and a figure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.explain.audit import audit_of, value_at, why_no_audit
from search.prune.settle import asha_rules, rungs_of
from search.record.study import Study, Trial, trial_name
from search.report.figures import Figure, new_figure, points
from search.words import plural


def audit_facts(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return what the audit has shown, or why there is none."""
    found = audit_of(study.config, trials, study.record.decisions())
    if found is None:
        return {"audit": None, "no_audit": why_no_audit(study), "audit_points": []}
    grace = rungs_of(study.config)[0]
    drawn = {row.trial for row in found.trials}
    return {
        "audit": found,
        "no_audit": "",
        "audit_share": asha_rules(study.config).audit_share,
        "audit_rows": [(trial_name(row.trial), row) for row in found.trials],
        "audit_grace": plural(grace, "epoch"),
        "audit_points": [
            (trial, value_at(trial, grace), trial.number in drawn)
            for trial in trials
            if trial.outcome == "complete" and value_at(trial, grace) is not None
        ],
    }


def audit_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figure of audited trials beside those that went on, if there are any."""
    found, rows = facts["audit"], facts["audit_points"]
    if found is None or not any(audited for *_, audited in rows):
        return {}
    data = []
    for name, audited, colour, symbol in (
        ("went on", False, "var(--best)", "circle"),
        ("audited: ran on all the same", True, "var(--baseline)", "diamond-open"),
    ):
        some = [(trial, value) for trial, value, drawn in rows if drawn == audited]
        x = [100 * value for _, value in some]
        y = [100 * (trial.value or 0.0) for trial, _ in some]
        text = [
            f"{trial.name}: {early:.2f}% after {facts['audit_grace']}, {late:.2f}% in the end"
            for (trial, _), early, late in zip(some, x, y, strict=True)
        ]
        data.append(points(name, x, y, text, colour, symbol=symbol, size=9))
    # All of them are shown: the worst are what the audit is about.
    low, high = _range([100 * value for _, value, _ in rows])
    for name, level, dash in (
        ("best of the others", found.best_of_others, "dash"),
        ("median of those that went on", found.median_final, "dot"),
    ):
        if level is not None:
            text = [f"{name}: {100 * level:.2f}%"] * 2
            ends, levels = [low, high], [100 * level] * 2
            data.append(
                points(name, ends, levels, text, "var(--ink)", mode="lines", dash=dash, size=1)
            )
    bounds = _range([100 * (trial.value or 0.0) for trial, *_ in rows])
    layout = {
        "xaxis": {
            "title": {"text": f"best after {facts['audit_grace']}"},
            "ticksuffix": "%",
            "range": [low, high],
        },
        "yaxis": {"title": {"text": "best in the end"}, "ticksuffix": "%", "range": bounds},
    }
    label = "Value at the first rung and in the end, of trials trained to the end"
    return {"audit": new_figure(label, data, layout, height=380)}


def _range(values: Sequence[float]) -> list[float]:
    pad = max(0.05 * (max(values) - min(values)), 0.05)
    return [min(values) - pad, max(values) + pad]
