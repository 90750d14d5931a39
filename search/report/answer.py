"""The answer of a study: its test accuracy, what it is worth against the baselines, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.record.study import Trial
from search.report.figures import Figure, escaped, new_figure, points
from search.report.formats import interval
from search.report.formats import points as in_points
from search.words import p_value

_NAME = 22  # characters of a name beside the figure, then a new line


def answer_facts(
    result: Mapping[str, Any],
    trials: Sequence[Trial],
    metrics: Mapping[str, Any],
    *,
    comparable: bool,
) -> dict[str, Any]:
    """Return the winner and the baselines as rows, what they differ in, and the labelled extras.

    Args:
        result: As for `result.json`.
        trials: All of them.
        metrics: final/metrics.json; empty before the retrain.
        comparable: Whether the images are those of the notebook's published numbers.
    """
    rows = _rows(result, trials, metrics)
    winner = next((t for t in trials if t.name == metrics.get("winner_trial")), None)
    extras = metrics.get("extras") or []
    comparison = metrics.get("comparison")
    return {
        "answer": rows,
        "winner": winner,
        "extras": extras,
        "comparison": comparison,
        "verdict": _verdict(rows, comparable=comparable),
        "compared": _compared(comparison, metrics),
    }


def _rows(
    result: Mapping[str, Any], trials: Sequence[Trial], metrics: Mapping[str, Any]
) -> list[dict[str, Any]]:
    groups = metrics.get("groups", {})
    rows = []
    if result["final"] is not None:
        rows.append(result["final"] | {"name": "winner", "kind": "winner", "published": None})
    for baseline in result["baselines"]:
        published = {"published": baseline["published_test_accuracy"]}
        rows.append(baseline | {"kind": "baseline"} | published)
    trial_of = {trial.origin: trial for trial in trials}
    winner = next((t for t in trials if t.name == metrics.get("winner_trial")), None)
    for row in rows:
        baseline_trial = trial_of.get(f"baseline {row['name']}")
        trial = winner if row["kind"] == "winner" else baseline_trial
        row["trial"] = trial.name if trial else None
        row["origin"] = trial.origin if trial else ""
        row["val_accuracy"] = trial.value if trial else None
        row["parameters"] = trial.parameters if trial else None
        row["multiply_adds"] = trial.multiply_adds if trial else None
        row["accuracies"] = groups.get(row["name"], {}).get("test_accuracies", [])
    return rows


def _verdict(rows: Sequence[Mapping[str, Any]], *, comparable: bool) -> str:
    measured = [row for row in rows if row["test_accuracy"] is not None]
    rivals = [row for row in measured if row["kind"] == "baseline"]
    if not rivals or len(rivals) == len(measured):
        return ""
    winner, rival = measured[0], max(rivals, key=lambda row: row["test_accuracy"])
    if str(winner["origin"]).startswith("baseline "):
        same = str(winner["origin"]).removeprefix("baseline ")
        return f"The winner is the baseline {same} itself: the search found nothing better."
    gap = 100 * (winner["test_accuracy"] - rival["test_accuracy"])
    known = max(row["published"] or 0.0 for row in rivals)
    return (
        f"{abs(gap):.2f} points {'above' if gap >= 0 else 'below'} the best baseline"
        f" ({rival['name']}, {100 * rival['test_accuracy']:.2f}%)."
        + (f" The notebook published {100 * known:.1f}% for its best." if comparable else "")
    )


def _compared(comparison: Mapping[str, Any] | None, metrics: Mapping[str, Any]) -> str:
    """Return the paired comparison in words: McNemar's exact test and the difference."""
    if not comparison:
        return ""
    ours, theirs = comparison["models"]
    p = comparison["p_value"]
    told = "chance hardly explains that" if p < 0.05 else "chance alone may explain that"
    images = metrics.get("test_images") or 0
    return (
        f"Against {comparison['baseline']}, the search's best baseline, on the same {images:,} test"
        f" images: {in_points(comparison['difference'], sign=True)} points, 95% interval"
        f" {_signed(comparison['ci95'])} (all seeds, paired bootstrap). {ours} alone is right on"
        f" {comparison['only_winner_right']:,} of them, {theirs} alone on"
        f" {comparison['only_baseline_right']:,}: McNemar's exact test, p = {p_value(p)}; {told}."
    )


def _signed(bounds: Sequence[float]) -> str:
    return f"{in_points(bounds[0], sign=True)} to {in_points(bounds[1], sign=True)}"


def answer_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figure of test accuracies, if any were measured."""
    rows = [row for row in reversed(facts["answer"]) if row["test_accuracy"] is not None]
    if not rows:
        return {}
    extras = [dict(row) | {"kind": "extra", "accuracies": []} for row in reversed(facts["extras"])]
    data = []
    for kind, name, colour, style in (
        ("winner", "winner", "var(--best)", {"size": 13}),
        ("baseline", "baseline", "var(--baseline)", {"size": 13}),
        ("extra", "not the winner: its answers averaged", "var(--muted)",
         {"size": 11, "symbol": "square-open"}),
    ):  # fmt: skip
        some = [row for row in [*extras, *rows] if row["kind"] == kind]
        means = [row["test_accuracy"] for row in some]
        bars: Figure = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 6}
        bars["color"] = "var(--muted)" if kind == "extra" else "var(--ink)"
        bars["array"] = [100 * (r["ci95"][1] - r["test_accuracy"]) for r in some]
        bars["arrayminus"] = [100 * (r["test_accuracy"] - r["ci95"][0]) for r in some]
        names = [row["name"] for row in some]
        text = [interval(row["ci95"]) for row in some]
        data.append(_shares(name, means, names, text, colour, error_x=bars, **style))
    seeds = [(value, row["name"]) for row in rows for value in row["accuracies"]]
    comparable = facts["comparable"]
    known = [(r["published"], r["name"]) for r in rows if comparable and r["published"]]
    for name, some_shares, symbol in (
        ("one seed", seeds, "line-ns"),
        ("published, one training", known, "diamond-open"),
    ):
        values, names = [v for v, _ in some_shares], [n for _, n in some_shares]
        text = [name] * len(values)
        data.append(_shares(name, values, names, text, "var(--ink)", size=9, symbol=symbol))
    order = [escaped(row["name"], _NAME) for row in [*extras, *rows]]
    layout: Figure = {
        "xaxis": {"ticksuffix": "%"},
        "yaxis": {"showgrid": False, "type": "category", "categoryarray": order},
    }
    if extras:  # a line between what counts and what is shown beside it
        edge = len(extras) - 0.5
        line = {"color": "var(--line)", "width": 1.5}
        layout["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": edge, "y1": edge}
            | {"line": line}
        ]
    label = "Test accuracy of the winner and the baselines, with 95% intervals"
    return {"answer": new_figure(label, data, layout, height=80 + 40 * len(order))}


def _shares(
    name: str,
    shares: Sequence[float],
    rows: Sequence[str],
    words: Sequence[str],
    colour: str,
    **style: Any,
) -> Figure | None:
    x = [100 * share for share in shares]
    text = [f"{r}: {value:.2f}%\n{more}" for r, value, more in zip(rows, x, words, strict=True)]
    return points(name, x, [escaped(row, _NAME) for row in rows], text, colour, **style)
