"""What the report says, as plain values: gathered from a study's record and its final models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.explain.workload import workloads
from search.final.look import was_opened_for_others
from search.record.study import UNSEARCHED, Study, Trial, best_of
from search.report.answer import answer_facts
from search.report.audit import audit_facts
from search.report.classes import class_facts
from search.report.commands import command_facts
from search.report.lineage import lineage_facts
from search.report.proposals import proposal_facts
from search.report.race import race_facts
from search.report.rungs import rung_facts
from search.report.seal import seal_facts
from search.report.space import Axis, Point, axes, importance, space_points
from search.report.timeline import timeline
from search.screen.result import build_result, final_metrics
from search.words import average_words, flip_words

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
    """Return every fact of the report; those of a stage that has not been reached are empty.

    Raises:
        StudyError: Images that were kept for the report are damaged.
    """
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
    comparable = data["name"] == "fashion-mnist" and not data["synthetic"] and not substitution
    bars, joins = timeline(study)
    ordered = _in_order(trials)
    facts = {
        "study": study.name,
        "state": study.state,
        "config": study.config,
        "result": result,
        "data": data,
        "banner": _banner(data, substitution),
        "comparable": comparable,
        "trials": trials,
        "ordered": ordered,
        "best": best,
        **answer_facts(result, trials, metrics, comparable=comparable),
        **race_facts(study),
        **lineage_facts(result),
        **seal_facts(study),
        "leaderboard": [t for t in ordered if t.value is not None],
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
        **class_facts(study, models[0] if models else None),
        "environment": study.noted("environment") or {},
    }
    tested = any(model["test"] is not None for model in models)
    facts["seal_breaks"] = tested or was_opened_for_others(study)
    if overtaken := _overtaken(facts):
        facts["chosen_by"] = ""
    facts["overtaken"] = overtaken
    facts["next_step"] = _next_step(study, facts)
    return facts | command_facts(study, facts)


def describe(configuration: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return a network and its recipe in a few words each."""
    if configuration is None:
        return "-", "-"
    net, recipe = configuration["network"], configuration["training"]
    words = ["-".join(map(str, net["filters"])), f"k {_each(net['kernel_sizes'])}"]
    if net["convs_per_block"] > 1:
        words.append(f"{net['convs_per_block']} convs a block")
    words += [word for word in ("residual", "squeeze", "batch_norm") if net.get(word)]
    if net["pooling"] != "max":
        words.append({"avg": "average pooling", "stride": "strided"}[net["pooling"]])
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
    steps += flip_words(recipe)
    if recipe["label_smoothing"]:
        steps.append(f"smoothing {recipe['label_smoothing']:g}")
    steps += average_words(recipe)
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


def _overtaken(facts: Mapping[str, Any]) -> str:
    """Say that another trial was chosen, or a better one came, since the winner was retrained."""
    winner, best, race = facts["winner"], facts["best"], facts["race"]
    if winner is None or best is None:
        return ""
    if race and race["ended"]:
        chosen = next(row["trial"] for row in race["candidates"] if row["name"] == race["chosen"])
        if chosen != winner.name:
            return (
                f"The retrained winner is {winner.name}; since then the race has chosen {chosen}."
                " `resume` retrains it."
            )
        if best.name in {row["trial"] for row in race["candidates"]}:
            return ""  # it was raced, and another one was chosen
    if best.number == winner.number:
        return ""
    return (
        f"The retrained winner is {winner.name}; since then {best.name} has become the best trial."
    )


def _next_step(study: Study, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is missing and the command that makes it; empty for a finished study."""
    best, models = facts["best"], facts["models"]
    if not models and (study.state in UNSEARCHED or best is None):
        what = "The search has not ended" if best else "No trial has a value yet"
        return f"{what}; if it is not running now, go on with", f"resume {study.name}"
    if not models:
        return "The best configurations have not been retrained yet", f"retrain {study.name}"
    if all(model["test"] is None for model in models):
        seal = ' --break-seal "why it is opened again"' if facts["seal_breaks"] else ""
        what = "The retrained models have not met the test images yet"
        return what, f"evaluate {study.name}{seal}"
    return "", ""
