"""Ours against the stock search on real images: same space, same budget, in turn.

    python benchmarks/real_search.py --seconds 1200 --repeats 3 --json OUT

One repeat is one search of each kind, one after the other, on all cores of the machine, each in
processes of its own with the same niceness and memory allocation. The space is that of the preset
`laptop` with networks small enough for the time; no baselines, no points, no limits. What is
compared is the best validation accuracy of any epoch of any trial. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

import numpy as np
from rich.console import Console
from rich.table import Table

from search.config.config import StudyConfig
from search.config.config_file import dump_config
from search.machine.slots import worker_environment

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "max_epochs": 9,
    "baselines": [],
    "limits": {},
    "space": {
        "num_blocks": {"int": [2, 3]},
        "filters": {"choice": [8, 12, 16, 24, 32], "per_block": True},
        "kernel_size": {"choice": [3, 5], "per_block": True},
        "block_dropout": {"float": [0.0, 0.4], "step": 0.1, "per_block": True},
        "dropout": {"float": [0.0, 0.5], "step": 0.1},
        "convs_per_block": 2,
        "residual": {"choice": [False, True]},
        "batch_norm": True,
        "head": {"choice": ["flatten", "average"]},
        "optimizer": "sgd",
        "learning_rate": {"float": [0.003, 1.0], "log": True},
        "momentum": {"float": [0.8, 0.97]},
        "weight_decay": {"float": [0.00001, 0.01], "log": True},
        "schedule": {"choice": ["one-cycle", "cosine"]},
        "batch_size": {"choice": [64, 128, 256]},
        "label_smoothing": {"choice": [0.0, 0.1]},
        "flip": True,
    },
}

Course = list[tuple[float, float]]
"""Seconds since the start, best validation accuracy by then."""


def main() -> None:
    """Run both kinds in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ |= worker_environment() | {"RAY_worker_niceness": "0"}  # for both kinds alike
    rows = []
    with tempfile.TemporaryDirectory(prefix="real-search-") as scratch:
        for seed in range(options.repeats):
            folder = Path(scratch) / str(seed)
            folder.mkdir()
            config = _config(seed, options.seconds, options.data)
            stock = _stock(config, folder, options.seconds)
            # A process of its own: what our search sets is not for the stock search after it.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                ours = process.submit(_ours, config, folder).result()
            rows.append({"seed": seed, "stock": stock, "ours": ours})
            print(f"repeat {seed}: stock {_best(stock):.4f}, ours {_best(ours):.4f}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(_answer(rows, options.seconds)) + "\n")
    _print(rows, options.seconds)


def _config(seed: int, seconds: float, data: str) -> StudyConfig:
    settings = {
        "study": f"real-{seed}",
        "seed": seed,
        "budget": {"seconds": seconds},
        "data": {"source": data},
        "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
    }
    return StudyConfig.model_validate(SMALL | settings)


def _stock(config: StudyConfig, folder: Path, seconds: float) -> dict[str, Any]:
    study_file, out = folder / "study.yaml", folder / "stock.json"
    study_file.write_text(dump_config(config), encoding="utf-8")
    script = [sys.executable, str(ROOT / "benchmarks" / "stock.py"), str(study_file)]
    script += ["--seconds", str(seconds), "--seed", str(config.seed), "--out", str(out)]
    load = os.getloadavg()[0]
    subprocess.run(script, check=True, cwd=ROOT)
    answer: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) | {"load_before": load}
    answer["course"] = _rising([(at, value) for at, value in answer["course"]])
    return answer


def _ours(config: StudyConfig, folder: Path) -> dict[str, Any]:
    from search.run import new_study, search

    begun, load = time.time(), os.getloadavg()[0]
    study, images = new_study(config, folder, "quiet")
    search(study, images, "quiet")
    trials = study.trials()
    found = [
        (row.at - begun, row.val_accuracy)
        for trial in trials
        for row in trial.epochs
        if row.val_accuracy is not None
    ]
    return {
        "trials": len(trials),
        "epochs": sum(len(trial.epochs) for trial in trials),
        "course": _rising(sorted(found)),
        "load_before": load,
    }


def _rising(values: Course) -> Course:
    course: Course = []
    for at, value in values:
        if not course or value > course[-1][1]:
            course.append((at, value))
    return course


def _best(answer: dict[str, Any]) -> float:
    if not answer["course"]:
        raise SystemExit("error: a search trained no epoch in its time; give it more --seconds")
    return float(answer["course"][-1][1])


def _passes(row: dict[str, Any]) -> float | None:
    """Return after how many seconds ours is above the stock's last value."""
    return next((at for at, value in row["ours"]["course"] if value > _best(row["stock"])), None)


def _answer(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "repeats": [
            {
                "seed": row["seed"],
                "stock_best": _best(row["stock"]),
                "ours_best": _best(row["ours"]),
                "ours_passes_stock_after_seconds": _passes(row),
                "stock": row["stock"],
                "ours": row["ours"],
            }
            for row in rows
        ],
    }


def _print(rows: list[dict[str, Any]], seconds: float) -> None:
    table = Table(title=f"Best validation accuracy after {seconds:g} seconds")
    for column in ("repeat", "stock", "trials", "epochs", "ours", "trials", "epochs", "passes"):
        table.add_column(column, justify="right")
    for row in rows:
        after = _passes(row)
        cells = [str(row["seed"])]
        for kind in ("stock", "ours"):
            found = row[kind]
            cells += [f"{_best(found):.4f}", str(found["trials"]), str(found["epochs"])]
        table.add_row(*cells, "-" if after is None else f"{after:.0f} s")
    stock, ours = ([_best(row[kind]) for row in rows] for kind in ("stock", "ours"))
    table.add_row("mean", f"{np.mean(stock):.4f}", "", "", f"{np.mean(ours):.4f}", "", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
