"""The sealed test set: the one place of the product that opens it, and the record of each look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images import LabelledImages
from data.loader import as_tensors
from data.source import load_test
from model.checkpoint import load_model
from model.evaluate import evaluate_logits, predict_logits
from model.softmax import softmax
from search.final.compare import bootstrap_interval, compare, extra_rows
from search.final.training import sha256
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, StudyError
from search.words import plural

_WORST = 24
_LAST = (1.0, 0, 0)  # worse than every trial


def was_opened_for_others(study: Study) -> bool:
    """Return whether the test set was opened, but never for the final models there are now."""
    seen, metrics = study.shown_looks(), read_metrics(study.folder / "final")
    return bool(seen and metrics) and all(look["models"] != _models(metrics) for look in seen)


def look_at_test(study: Study, *, reason: str, break_seal: str | None = None) -> dict[str, Any]:
    """Evaluate every retrained model on the test images; return and write final/metrics.json.

    The look is recorded before the images are opened. Where the very same files were looked at
    before, and the process died before what was seen was written, they are measured again: that is
    no further look.

    Predictions are kept in final/<model>/test.npz: `logits` (N, K) float32 and `labels` (N,) int64.
    The images the first model misjudged most surely are kept in its worst.npz, for the report.

    Args:
        study: A study whose final models are trained.
        reason: Why the test set is opened, for the record.
        break_seal: Why it is opened again; without it a second look is refused.

    Raises:
        StudyError: There are no final models, or the test set was looked at before.
    """
    if break_seal is not None and not break_seal.strip():
        raise StudyError('--break-seal needs a reason, which is kept: --break-seal "why"')
    metrics = read_metrics(study.folder / "final")
    if not metrics:
        raise StudyError(f"{study.name} has no retrained models yet; run `retrain {study.name}`")
    seen, models = study.shown_looks(), _models(metrics)
    lost = break_seal is None and "groups" not in metrics
    is_same = lost and any(look["models"] == models for look in seen)
    if seen and break_seal is None and not is_same:
        raise StudyError(
            f"this study looked at the test set {plural(len(seen), 'time')} before; a further look"
            ' makes its number less honest and needs --break-seal "reason"'
        )
    hashes = {row["name"]: row["model_sha256"] for row in metrics["models"]}
    for name, expected in hashes.items():
        _check_hash(study.folder / "final" / name / "model.safetensors", expected)
    look = None
    if not is_same:
        look = study.record.add_look(
            reason=break_seal or reason, models=models, broke_seal=bool(seen)
        )
    test = load_test(study.config.data.spec())
    images = as_tensors(test, "cpu")[0]
    correct: dict[str, list[NDArray[np.bool_]]] = {}
    answers, mirrored = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    for row in metrics["models"]:
        folder = study.folder / "final" / row["name"]
        loaded = load_model(folder / "model.safetensors", "cpu")
        if loaded.classes != test.classes:
            raise StudyError(f"the test images' classes {test.classes} are not {loaded.classes}")
        logits = predict_logits(loaded.model, images)
        row["test"] = evaluate_logits(logits, test.labels, test.classes).to_dict()
        np.savez_compressed(folder / "test.npz", logits=logits, labels=test.labels)
        if row is metrics["models"][0]:
            _keep_worst(folder / "worst.npz", test, logits)
        right = logits.argmax(axis=1) == test.labels
        correct.setdefault(row["group"], []).append(right)
        if row["group"] == "winner" and study.config.final.ensemble:
            answers.append(logits)
            mirrored.append(predict_logits(loaded.model, images.flip(-1)))
    metrics["test_images"] = test.num_images
    metrics["groups"] = {group: _summary(rights) for group, rights in correct.items()}
    metrics["extras"] = extra_rows(answers, mirrored, test.labels) if answers else []
    metrics["comparison"] = _comparison(study, correct, metrics["models"])
    metrics["test_fingerprint"] = test.fingerprint()
    if look is not None:
        study.record.end_look(look, result=json.dumps(metrics["groups"]))
    write_metrics(study.folder / "final", metrics)
    return metrics


def _models(metrics: dict[str, Any]) -> str:
    return json.dumps({row["name"]: row["model_sha256"] for row in metrics["models"]})


def _comparison(
    study: Study, correct: dict[str, list[NDArray[np.bool_]]], models: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Compare the winner with the baseline that the search, not the test, found best."""
    trials = {trial.origin: trial for trial in study.trials()}
    rivals = [
        (trials[f"baseline {name}"].merit if f"baseline {name}" in trials else _LAST, name)
        for name in correct
        if name != "winner"
    ]
    if not rivals or "winner" not in correct:
        return None
    _, name = min(rivals)
    return compare(
        np.stack(correct["winner"]),
        np.stack(correct[name]),
        name=name,
        # A seed that diverged is not there, and another one is the first.
        models=[next(m["name"] for m in models if m["group"] == g) for g in ("winner", name)],
    )


def _summary(rights: list[NDArray[np.bool_]]) -> dict[str, Any]:
    accuracies = [float(right.mean()) for right in rights]
    return {
        "seeds": len(rights),
        "test_accuracies": accuracies,
        "test_accuracy": float(np.mean(accuracies)),
        # Sample standard deviation between seeds; one seed has none.
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(rights) > 1 else None,
        "ci95": bootstrap_interval(np.stack(rights)),
    }


def _keep_worst(path: Path, test: LabelledImages, logits: NDArray[np.float32]) -> None:
    # For the report, which must not open the test set: the images most surely misjudged.
    probabilities = softmax(logits)
    true = probabilities[np.arange(len(logits)), test.labels]
    worst = np.argsort(true, kind="stable")[:_WORST]
    np.savez_compressed(
        path,
        images=test.images[worst],
        labels=test.labels[worst],
        predictions=logits[worst].argmax(axis=1),
        probabilities=probabilities[worst],
    )


def _check_hash(path: Path, expected: str) -> None:
    if sha256(path) != expected:
        raise StudyError(f"{path} is not the model that was retrained (SHA-256); run `retrain`")
