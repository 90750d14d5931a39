"""What the report says, as plain values: gathered from a study's record and its final models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.explain.workload import workloads
from search.record.study import UNSEARCHED, Study, Trial, best_of, trial_name
from search.report.audit import audit_facts
from search.report.proposals import proposal_facts
from search.report.rungs import rung_facts
from search.report.space import Axis, Point, axes, importance, space_points
from search.screen.result import build_result, final_metrics

_DATA = (
    "name",
    "origin",
    "synthetic",
    "fingerprint",
    "train_images",
    "validation_images",
    "classes",
)
MOST_ROWS = 500
"""Of the leaderboard and of the table of stopped trials; the record holds the others."""
MOST_FAILURES = 60
"""Rows of the table of failures."""


def gather(study: Study) -> dict[str, Any]:
    """Return every fact of the report; those of a stage that has not been reached are empty."""
    trials = study.trials()
    best = best_of(trials)
    metrics = final_metrics(study)
    models = [{"test": None} | model for model in metrics.get("models", [])]
    result = build_result(study)
    data = dict.fromkeys(_DATA) | (study.noted("data") or {})
    substitution = study.noted("substitution") or ""
    points = space_points(study, trials)
    dimensions = axes(study, points)
    shares, remark = importance(study)
    answer = _answer(result, trials, metrics)
    comparable = data["name"] == "fashion-mnist" and not data["synthetic"] and not substitution
    bars, joins = _timeline(study)
    looks = study.record.looks()
    return {
        "study": study.name,
        "state": study.state,
        "config": study.config,
        "result": result,
        "data": data,
        "banner": _banner(data, substitution),
        "comparable": comparable,
        "trials": trials,
        "best": best,
        "answer": answer,
        "verdict": _verdict(answer, comparable),
        "leaderboard": [t for t in _in_order(trials) if t.value is not None],
        "summaries": {t.number: describe(t.configuration) for t in trials},
        **rung_facts(study, trials),
        **audit_facts(study, trials),
        **proposal_facts(study, trials, result["budget"]["search_seconds"]),
        "points": points,
        "axes": _ranked(dimensions, shares),
        "importance": shares,
        "importance_remark": remark,
        "edges": _edges(points, dimensions, best),
        "bars": bars,
        "workloads": workloads(study),
        "shelf": study.noted("shelf") or "",
        "joins": joins,
        "failures": [t for t in trials if t.outcome in ("failed", "infeasible")],
        "lost": [a for a in study.record.attempts() if a["outcome"] == "lost"],
        "models": models,
        "evaluation": models[0]["test"] if models else None,
        "confusions": _confusions(models[0]["test"] if models else None),
        "overtaken": _overtaken(metrics, best),
        "looks": looks,
        "environment": study.noted("environment") or {},
        "next_step": _next_step(study, best, models, looks),
    }


def describe(configuration: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return a network and its recipe in a few words each."""
    if configuration is None:
        return "-", "-"
    net, recipe = configuration["network"], configuration["training"]
    words = ["-".join(map(str, net["filters"])), f"k {_each(net['kernel_sizes'])}"]
    if net["convs_per_block"] > 1:
        words.append(f"{net['convs_per_block']} convs a block")
    words += [word for word in ("residual", "batch_norm") if net[word]]
    words.append(net["head"] + (f" {net['dense_width']}" if net["dense_width"] else ""))
    if any(net["block_dropouts"]) or net["dropout"]:
        words.append(f"dropout {_each(net['block_dropouts'])}, {net['dropout']:g}")
    steps = [
        f"{recipe['optimizer']} {recipe['learning_rate']:.3g}",
        recipe["schedule"],
        f"batch {recipe['batch_size']}",
        f"decay {recipe['weight_decay']:.2g}",
    ]
    steps += [f"{key} {recipe[key]:g}" for key in ("shift", "erase") if recipe[key]]
    steps += ["flip"] if recipe["flip"] else []
    if recipe["label_smoothing"]:
        steps.append(f"smoothing {recipe['label_smoothing']:g}")
    return " \u00b7 ".join(words).replace("batch_norm", "batch norm"), " \u00b7 ".join(steps)


def _each(values: Sequence[float]) -> str:
    return "-".join(f"{v:g}" for v in (values if len(set(values)) > 1 else values[:1]))


def _banner(data: Mapping[str, Any], substitution: str) -> str:
    if not data.get("synthetic") and not substitution:
        return ""
    what = substitution or f"the images are drawn by a program ({data['origin']})"
    return (
        f"Not real data: {what}. These accuracies say nothing about Fashion-MNIST and are not"
        " compared with published numbers."
    )


def _answer(
    result: Mapping[str, Any], trials: Sequence[Trial], metrics: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the winner and the baselines as rows, from the group's summary and its trial."""
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


def _verdict(rows: Sequence[Mapping[str, Any]], comparable: bool) -> str:
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
    apart = winner["ci95"][0] > rival["ci95"][1] or winner["ci95"][1] < rival["ci95"][0]
    return (
        f"{abs(gap):.2f} points {'above' if gap >= 0 else 'below'} the best baseline"
        f" ({rival['name']}, {100 * rival['test_accuracy']:.2f}%); the 95% intervals"
        f" {'do not overlap' if apart else 'overlap'}."
        + (f" The notebook published {100 * known:.1f}% for its best." if comparable else "")
    )


def _in_order(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (not trial.can_win, trial.merit))


def _ranked(dimensions: Sequence[Axis], shares: Mapping[str, float]) -> list[Axis]:
    return sorted(dimensions, key=lambda axis: -shares.get(axis.name, 0.0))


def _edges(points: Sequence[Point], dimensions: Sequence[Axis], best: Trial | None) -> list[str]:
    """Return which parameters of the best trial lie at the end of what the space allows."""
    for point in points:
        if best is not None and point.trial.number == best.number:
            values = [(axis, point.params.get(axis.name)) for axis in dimensions]
            ends = [(axis.name, v, axis.edge(v)) for axis, v in values if v is not None]
            return [f"{name} = {v:.4g} ({end})" for name, v, end in ends if end]
    return []


def _timeline(study: Study) -> tuple[list[dict[str, Any]], list[float]]:
    """Return a bar for each attempt, on a clock that stands still between sessions, and the joins.

    A study that was resumed a week later shows its work, not the week.
    """
    sessions = [s for s in study.sessions.all() if s["stage"] == "search"]
    attempts = sorted(study.record.attempts(), key=lambda a: float(a["started_at"]))
    seen: dict[tuple[int, int], float] = {}
    for row in study.record.epochs():
        seen[row.trial, row.attempt] = max(row.at, seen.get((row.trial, row.attempt), 0.0))
    if not attempts:
        return [], []
    ends = [
        a["ended_at"] or seen.get((a["trial"], a["attempt"]), a["started_at"]) for a in attempts
    ]
    spans = [(s["started_at"], s["seen_at"]) for s in sessions]
    spans = spans or [(attempts[0]["started_at"], max(ends))]

    def clock(at: float) -> float:
        return float(sum(max(0.0, min(at, end) - start) for start, end in spans))

    bars = []
    for attempt, end in zip(attempts, ends, strict=True):
        start = clock(attempt["started_at"])
        outcome = attempt["outcome"] or "running"
        name = f"{trial_name(attempt['trial'])}, attempt {attempt['attempt']}: {outcome}"
        after = f", from epoch {attempt['from_epoch']}" if attempt["from_epoch"] else ""
        place = f"{attempt['node'] or 'not placed'} {attempt['pid'] or ''}".strip()
        seconds = max(clock(end) - start, 0.0)
        bars.append(
            {
                "trial": attempt["trial"],
                "outcome": outcome,
                "slot": place if len(place) <= 20 else f"{place[:8]}..{place[-10:]}",
                "start": start,
                "seconds": seconds,
                "words": f"{name}{after}\n{seconds:.1f} s on {place}\n{attempt['reason'] or ''}",
            }
        )
    return bars, [clock(end) for _, end in spans[:-1]]


def _confusions(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the eight most frequent mistakes: true class, answer, images, share of the class."""
    if evaluation is None:
        return []
    names = [score["name"] for score in evaluation["per_class"]]
    pairs = [
        {"true": names[i], "answer": names[j], "images": count, "share": count / sum(row)}
        for i, row in enumerate(evaluation["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair["images"])[:8]


def _overtaken(metrics: Mapping[str, Any], best: Trial | None) -> str:
    winner = metrics.get("winner_trial")
    if not winner or best is None or best.name == winner:
        return ""
    return f"The retrained winner is {winner}; since then {best.name} has become the best trial."


def _next_step(
    study: Study,
    best: Trial | None,
    models: Sequence[Mapping[str, Any]],
    looks: Sequence[Mapping[str, Any]],
) -> tuple[str, str]:
    """Return what is missing and the command that makes it; empty for a finished study."""
    if not models and (study.state in UNSEARCHED or best is None):
        what = "The search has not ended" if best else "No trial has a value yet"
        return f"{what}; if it is not running now, go on with", f"resume {study.name}"
    if not models:
        return "The best configuration has not been retrained yet", f"retrain {study.name}"
    if all(model["test"] is None for model in models):
        seal = ' --break-seal "why it is opened again"' if looks else ""
        what = "The retrained models have not met the test images yet"
        return what, f"evaluate {study.name}{seal}"
    return "", ""
