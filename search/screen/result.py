"""The outcome of a study for machines: `result.json` and `status --json`. Needs no Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

from search.config.baselines import BASELINES
from search.explain.audit import audit_of
from search.explain.workload import workloads
from search.record.final_metrics import read_metrics, winner_rows
from search.record.lineage import lineage_of
from search.record.lock import is_alive
from search.record.study import Study, Trial, best_of
from search.record.view import View


def summarise(study: Study) -> dict[str, Any]:
    """Return what `status --json` prints: the study as it stands now."""
    trials, alive = study.trials(), is_alive(study)
    paused = len(View.of(study).paused)
    in_flight = _count(trials, "running") - paused
    return {
        "study": study.name,
        "state": study.state,
        "alive": alive,
        "dataset": _dataset(study, None),
        "trials": _counts(trials)
        | {
            "running": in_flight if alive else 0,
            "paused": paused,
            # In flight when the driver ended: they go on when the study is resumed.
            "unfinished": 0 if alive else in_flight,
        },
        "best": _best(trials),
        "budget": _budget(study, trials),
        "nodes": [workload.to_dict() for workload in workloads(study)],
    }


def build_result(study: Study) -> dict[str, Any]:
    """Return the content of `result.json` (keys are promised in the README)."""
    trials = study.trials()
    metrics = final_metrics(study)
    groups = metrics.get("groups", {})
    models = metrics.get("models", [])
    looks = study.shown_looks()
    final = None
    if "winner" in groups:
        winner = next(trial for trial in trials if trial.name == metrics["winner_trial"])
        final = dict(groups["winner"])
        final["trial"] = winner.name
        final["parameters"] = winner.parameters
        final["multiply_adds"] = winner.multiply_adds
        final["epochs"] = winner_rows(metrics)[0]["epochs"]
        final["train_accuracy"] = _train_accuracy(models, "winner")
        final["test_looks"] = len(looks)
        final["chosen_by"] = "race" if study.noted("race") else "search"
        final["comparison"] = metrics.get("comparison")
        final["extras"] = metrics.get("extras", [])
        final["seal_broken"] = any(look["broke_seal"] for look in looks)
    audited = audit_of(study.config, trials, study.record.decisions())
    return {
        "study": study.name,
        "status": study.state,
        "dataset": _dataset(study, metrics.get("test_images")),
        "trials": _counts(trials),
        "best": _best(trials),
        "baselines": [_baseline(study, name, groups, models) for name in study.config.baselines],
        # The finalists, trained again on redrawn splits; null where nobody was raced.
        "race": study.noted("race"),
        "final": final,
        "budget": _budget(study, trials),
        "nodes": [workload.to_dict() for workload in workloads(study)],
        # The study it was begun from; null where there was none.
        "lineage": lineage_of(study),
        # What stopping trials early cost; null where no trial was audited.
        "audit": None if audited is None else audited.to_dict(),
        "versions": study.noted("environment"),
    }


def final_metrics(study: Study) -> dict[str, Any]:
    """Return final/metrics.json, or an empty dictionary before the retrain. Raises StudyError."""
    return read_metrics(study.folder / "final")


def _dataset(study: Study, test_images: int | None) -> dict[str, Any]:
    facts = study.noted("data") or {}
    return {
        "name": facts.get("name"),
        "fingerprint": facts.get("fingerprint"),
        "train_images": facts.get("train_images"),
        "validation_images": facts.get("validation_images"),
        "test_images": test_images,
        "synthetic": facts.get("synthetic"),
        "origin": facts.get("origin"),
        "substituted": study.noted("substitution") or None,
    }


def _counts(trials: list[Trial]) -> dict[str, int]:
    kinds = ("complete", "pruned", "failed", "infeasible")
    return {"total": len(trials)} | {kind: _count(trials, kind) for kind in kinds}


def _count(trials: list[Trial], outcome: str) -> int:
    return Counter(trial.outcome for trial in trials)[outcome]  # type: ignore[index]


def _best(trials: list[Trial]) -> dict[str, Any] | None:
    best = best_of(trials)
    if best is None:
        return None
    return {
        "trial": best.name,
        "origin": best.origin,
        "config": best.configuration,
        "epochs": best.best_epoch,
        "val_accuracy": best.value,
        "parameters": best.parameters,
        "multiply_adds": best.multiply_adds,
    }


def _baseline(
    study: Study, name: str, groups: dict[str, Any], models: list[dict[str, Any]]
) -> dict[str, Any]:
    group = groups.get(name, {})
    baseline = BASELINES[name]
    comparable = (study.noted("data") or {}).get("name") == "fashion-mnist"
    return {
        "name": name,
        "config": baseline.configuration(study.config.max_epochs).to_dict(),
        "test_accuracy": group.get("test_accuracy"),
        "test_accuracy_std": group.get("test_accuracy_std"),
        "ci95": group.get("ci95"),
        "seeds": group.get("seeds", 0),
        "epochs": study.config.max_epochs,
        "train_accuracy": _train_accuracy(models, name),
        # Of Fashion-MNIST: other images have no published accuracy.
        "published_test_accuracy": baseline.published_test_accuracy if comparable else None,
        "published_train_accuracy": baseline.published_train_accuracy if comparable else None,
    }


def _train_accuracy(models: list[dict[str, Any]], group: str) -> float | None:
    values = [model["train_accuracy"] for model in models if model["group"] == group]
    return sum(values) / len(values) if values else None


def _budget(study: Study, trials: list[Trial]) -> dict[str, Any]:
    epochs = sum(len(trial.epochs) for trial in trials)
    searched = study.sessions.spent_seconds("search")
    images = (study.noted("data") or {}).get("train_images") or 0
    sessions = study.sessions.all()
    return {
        "wall_seconds": sum(s["seen_at"] - s["started_at"] for s in sessions),
        "search_seconds": searched,
        "trial_epochs": epochs,
        # Training images of all slots together, over the wall time of the search.
        "images_per_second": epochs * images / searched if searched > 0 else None,
    }
