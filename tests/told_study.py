"""A small study made by hand, at every stage, for the tests of what is told of it."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from data.images import ImageShape
from model.evaluate import evaluate_logits
from model.train import EpochMetrics
from search.config.config import StudyConfig
from search.drive.driver import Driver
from search.drive.failure import Failure
from search.prune.settle import settle
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, best_of, create, open_study
from search.report.report import write_report

EVIL = "<script>alert('x')</script>"
HASHES = json.dumps({"winner-s0": "0123456789abcdef" * 4, EVIL: "fe" * 32})
CLASSES = ("shirt", EVIL, "a|b `c`")
SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=3)
CONFIG: dict[str, Any] = {
    "study": "small",
    "max_epochs": 4,
    "data": {"source": "synthetic"},
    "space": {
        "num_blocks": {"int": [1, 2]},
        "filters": {"choice": [4, 8, 16], "per_block": True},
        "learning_rate": {"float": [0.001, 0.5], "log": True},
        "dropout": {"float": [0.0, 0.5]},
    },
    "baselines": ["seed-32"],
    "asha": {"form": "stopping", "grace_epochs": 1, "reduction_factor": 2, "min_competitors": 2},
    "sampler": {"kind": "random"},
    "budget": {"trials": 16},
}
DATA = {
    "name": "synthetic",
    "origin": f"drawn by {EVIL}",
    "synthetic": True,
    "fingerprint": "ab" * 32,
    "train_images": 900,
    "validation_images": 100,
    "classes": list(CLASSES),
}
SECTIONS = (
    "The answer",
    "The finalists' race",
    "Leaderboard",
    "Learning curves",
    "Rung board",
    "Pruning audit",
    "What mattered",
    "Timeline",
    "Failures and infeasible trials",
    "Final models",
    "The seal's record",
    "Conditions",
)


def metrics(epoch: int, accuracy: float, loss: float = 0.5) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        train_accuracy=0.8,
        val_loss=0.6,
        val_accuracy=accuracy,
        learning_rate=0.1,
        images_per_second=1000.0,
        seconds=1.5,
    )


def make_config(**changes: Any) -> StudyConfig:
    """Return the small study's configuration with keys replaced; those of `asha` are added."""
    asha = CONFIG["asha"] | changes.pop("asha", {})
    return settle(StudyConfig.model_validate(CONFIG | changes | {"asha": asha}), slots=1)


def search(study: Study) -> None:
    """Drive a search by hand: trial 2 raises, 3 diverges, 4 loses its worker once."""
    driver = Driver(study, shape=SHAPE, slots=1)
    session = study.sessions.start("search", host="here", pid=1)
    while (assignment := driver.next()) is not None:
        trial, attempt = assignment.trial, assignment.attempt
        driver.place(trial, node=f"node {EVIL}", pid=4000 + trial % 2)
        if trial == 2:
            driver.on_failure(
                trial,
                Failure(kind="bug", reason=f"ValueError: {EVIL}", trace=f"ValueError: {EVIL}"),
            )
            continue
        for epoch in itertools.count(assignment.from_epoch + 1):
            loss = math.nan if trial == 3 else 0.5
            accuracy = 0.5 + 0.3 * (trial * 0.618 % 1) + 0.02 * epoch
            if driver.on_epoch(trial, metrics(epoch, accuracy, loss)).action == "stop":
                break
            if trial == 4 and attempt == 1:
                driver.on_failure(
                    trial, Failure(kind="worker lost", reason=f"the node went away {EVIL}")
                )
                break
    study.sessions.end(session)
    study.set_state("searched")


def retrain(study: Study) -> None:
    """Write final/metrics.json as a retrain leaves it."""
    best = best_of(study.trials())
    assert best is not None
    rows = [
        {
            "name": name,
            "group": name.rpartition("-s")[0],
            "seed": 7,
            "epochs": 4,
            "configuration": best.configuration,
            "model_sha256": "00",
            "train_accuracy": 0.9,
            "train_loss": 0.3,
            "seconds": 75.0,
        }
        for name in ("winner-s0", "winner-s1", "seed-32-s0")
    ]
    (study.folder / "final" / "winner-s0").mkdir(parents=True)
    write_metrics(study.folder / "final", {"winner_trial": best.name, "models": rows})
    study.set_state("retrained")


def look(study: Study) -> None:
    """Add test results, as a look at the test set leaves them."""
    content = read_metrics(study.folder / "final")
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=200)
    logits = draw.normal(size=(200, 3)).astype(np.float32)
    logits[np.arange(200), labels] += 2
    for row in content["models"]:
        row["test"] = evaluate_logits(logits, labels, CLASSES).to_dict()
    group = {"test_accuracy": 0.91236, "test_accuracy_std": 0.0021, "ci95": [0.9065, 0.9180]}
    content["groups"] = {
        "winner": group | {"seeds": 2, "test_accuracies": [0.9109, 0.9138]},
        "seed-32": group
        | {"seeds": 1, "test_accuracy": 0.87, "ci95": [0.86, 0.88], "test_accuracies": [0.87]},
    }
    content["test_images"] = 200
    write_metrics(study.folder / "final", content)
    probabilities = np.full((4, 3), 1 / 3, dtype=np.float32)
    np.savez_compressed(
        study.folder / "final" / "winner-s0" / "worst.npz",
        images=draw.integers(255, size=(4, 1, 28, 28), dtype=np.uint8),
        labels=np.array([0, 1, 2, 2]),
        predictions=np.array([1, 2, 0, 2]),
        probabilities=probabilities,
    )
    study.record.end_look(
        study.record.add_look(reason=f"final evaluation {EVIL}", models=HASHES, broke_seal=False),
        result="{}",
    )
    study.set_state("finished")


@cache
def _searched() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="told")
    place = Path(folder.name) / "small"
    study = create(make_config(), place, facts={"data": DATA}, environment={"gpu": EVIL})
    search(study)
    return folder


def at_stage(folder: Path, *stages: Callable[[Study], None]) -> Study:
    """Return a copy of the searched study in `folder`, brought to a stage."""
    shutil.copytree(Path(_searched().name) / "small", folder / "small")
    study = open_study(folder / "small")
    for stage in stages:
        stage(study)
    return study


def race(study: Study) -> None:
    """Note a race of two finalists and the baseline, as `search.final.finalists` does.

    t0008 has the best value of the search; t0004 is chosen; the baseline diverged in round 2.
    """
    rows: list[tuple[str, str, int, float, list[float | None], float, int | None]] = [
        ("t0008", "finalist", 9000, 0.8849, [0.85, 0.86, 0.849], 0.3, None),
        ("t0004", "finalist", 2500, 0.8616, [0.851, 0.858, 0.848], 0.7, None),
        ("seed-32", "baseline", 173738, 0.58, [0.57, None], 0.0, 2),
    ]
    candidates = []
    for name, kind, size, seen, values, chance, left in rows:
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known)
        candidates.append(
            {"name": name, "kind": kind, "trial": "t0000" if kind == "baseline" else name}
            | {
                "parameters": size,
                "epochs": 4,
                "search_epochs": 4,
                "search_value": seen,
                "values": values,
            }
            | {"mean": mean, "sd": 0.0061 if len(known) > 1 else None, "se": None}
            | {"adjusted_mean": mean, "p_best": chance, "optimism": seen - mean}
            | {"left_after": left, "why_left": f"diverged in round 2 {EVIL}" if left else ""}
        )
    optimism = {"trial": "t0008", "search_value": 0.8849, "remeasured": 0.853}
    study.note(
        "race",
        {"candidates": candidates, "rounds": 3, "max_rounds": 5, "validation_images": 100}
        | {"ended": "going on would not matter", "leader": "t0008", "chosen": "t0004"}
        | {"reason": f"it is smaller {EVIL}"}
        | {"optimism": optimism | {"optimism": 0.0319, "ci95": [0.0102, 0.0536]}},
    )


def compare(study: Study) -> None:
    """Choose t0004, and add the paired comparison and the rows that are not the winner's."""
    content = read_metrics(study.folder / "final")
    content["winner_trial"] = "t0004"
    content["comparison"] = {
        "baseline": "seed-32",
        "models": ["winner-s0", "seed-32-s0"],
        "only_winner_right": 310,
        "only_baseline_right": 190,
        "p_value": 8.24e-8,
        "difference": 0.0424,
        "ci95": [0.031, 0.0538],
    }
    content["extras"] = [
        {"name": "ensemble of 2 seeds", "kind": "ensemble", "test_accuracy": 0.9177}
        | {"ci95": [0.9101, 0.9252]},
        {"name": f"flip averaging {EVIL}", "kind": "flip", "test_accuracy": 0.9133}
        | {"ci95": [0.9055, 0.9209]},
    ]
    write_metrics(study.folder / "final", content)


def figures_of(page: str) -> dict[str, Any]:
    """Return the figures that a page would draw."""
    found = re.search(r'<script id="figures" type="application/json">(.*?)</script>', page)
    assert found is not None
    figures: dict[str, Any] = json.loads(found.group(1))
    return figures


def written(study: Study) -> tuple[str, str]:
    """Write the report; return the page and its Markdown twin."""
    page = write_report(study)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")
