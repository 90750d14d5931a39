"""Compare search methods on tables of learning curves, without training.

python benchmarks/search.py TABLE.npz ... --methods ours,random-asha --json OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if not __package__:
    # Run as a script: this folder is in the path's first place, where `search` would be this file.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]
# Before numpy: the matrices are small, and the processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import scores
from benchmarks.curve_table import CurveTable, TableError, load_table
from benchmarks.method import METHODS, MethodError, Problem, load_factory
from benchmarks.simulation import Course, simulate

REFERENCE = "random-asha"
_PACKAGES = ("numpy", "scipy", "ray", "optuna", "syne-tune", "dehb", "ConfigSpace")

Task = tuple[Path, str, int]
"""Table, method, seed."""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    command = argparse.ArgumentParser(
        prog="python benchmarks/search.py",
        description="Replay tables of learning curves through search methods, without training.",
    )
    command.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    command.add_argument("--workers", type=_count, default=4, help="that train at the same time")
    command.add_argument("--seeds", type=_count, default=30, help="runs of each method and table")
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument(
        "--budget", type=_budget, default=100.0, help="in full trainings (default 100)"
    )
    command.add_argument(
        "--methods",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=["ours", "random", REFERENCE],
        help=f"some of: {', '.join(METHODS)}",
    )
    command.add_argument(
        "--target",
        type=float,
        action="append",
        default=[],
        help="a final value to time, on the tables where it lies above the median; repeatable",
    )
    command.add_argument("--json", type=Path, required=True, help="where to write the figures")
    command.add_argument("--figure", type=Path, help="where to draw regret against budget (.png)")
    command.add_argument("--processes", type=_count, default=1)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    options = parser().parse_args(arguments)
    try:
        _check(options)
        tables = {path: load_table(path) for path in options.tables}
        for method in options.methods:
            load_factory(method)
        courses = _run_all(options)
    except (TableError, MethodError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = summarise(options, tables, courses)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    from benchmarks.printing import print_summary

    # Wide enough for the tables where the output is a file.
    print_summary(summary, Console(width=None if sys.stdout.isatty() else 160))
    if options.figure is not None:
        from benchmarks.figure import draw_regret

        draw_regret(
            options.figure,
            [
                (
                    table,
                    {
                        method: [courses[path, method, seed] for seed in _seeds(options)]
                        for method in options.methods
                    },
                )
                for path, table in tables.items()
            ],
            budget=options.budget,
        )
    return 0


def run_one(task: Task, workers: int, budget: float) -> Course:
    """Run one method on one table from one seed."""
    path, name, seed = task
    table = _cached_table(path)
    problem = Problem(names=table.names, max_epochs=table.max_epochs, budget=budget)
    method = load_factory(name)(problem, workers, seed)
    return simulate(table, method, workers=workers, budget=budget)


def summarise(
    options: argparse.Namespace,
    tables: dict[Path, CurveTable],
    courses: dict[Task, Course],
) -> dict[str, Any]:
    """Return what --json writes."""
    found: dict[str, Any] = {"tables": {}, "ranks": {}, "conditions": _conditions(options, tables)}
    seeds, methods, budget = _seeds(options), options.methods, options.budget
    for path, table in tables.items():
        targets = scores.targets_of(table, options.target)
        found["tables"][table.name] = {
            method: scores.summarise(
                table,
                [courses[path, method, seed] for seed in seeds],
                budget=budget,
                targets=targets,
            )
            for method in methods
        }
    for mark in scores.marks(budget):
        key = f"{mark:g}"
        regrets = [
            np.array([of_table[method]["regret"][key] for method in methods]).T
            for of_table in found["tables"].values()
        ]
        ranks = scores.rank_methods(np.array(regrets))
        found["ranks"][key] = scores.summarise_ranks(ranks, methods, against=REFERENCE)
    return found


def _run_all(options: argparse.Namespace) -> dict[Task, Course]:
    tasks = [
        (path, method, seed)
        for path in options.tables
        for method in options.methods
        for seed in _seeds(options)
    ]
    courses = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("replaying", total=len(tasks))
        for task, course in zip(tasks, _courses(tasks, options), strict=True):
            courses[task] = course
            progress.update(bar, advance=1, description=f"{task[0].stem}: {task[1]}")
    return courses


def _courses(tasks: list[Task], options: argparse.Namespace) -> Iterator[Course]:
    fixed = [options.workers] * len(tasks), [options.budget] * len(tasks)
    if options.processes == 1:
        yield from map(run_one, tasks, *fixed)
        return
    # Not forked: a peer's library may have started threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        yield from pool.map(run_one, tasks, *fixed)


@lru_cache(maxsize=4)
def _cached_table(path: Path) -> CurveTable:
    return load_table(path)


def _seeds(options: argparse.Namespace) -> list[int]:
    return list(range(options.first_seed, options.first_seed + options.seeds))


def _check(options: argparse.Namespace) -> None:
    stems = [path.stem for path in options.tables]
    for stem in stems:
        if stems.count(stem) > 1:
            raise TableError(f"two tables are called {stem}; results go by file name: rename one")
    for path in (options.json, options.figure):
        if path is not None and path.is_dir():
            raise TableError(
                f"{path} is a folder, but results are written to a file; name one in it"
            )
    for method in options.methods:
        if options.methods.count(method) > 1:
            raise MethodError(f"method {method} is given twice")


def _conditions(options: argparse.Namespace, tables: dict[Path, CurveTable]) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "workers": options.workers,
        "seeds": options.seeds,
        "first_seed": options.first_seed,
        "budget": options.budget,
        "methods": options.methods,
        "tables": {
            table.name: {
                "rows": table.num_rows,
                "dimensions": len(table.names),
                "epochs": table.max_epochs,
                "direction": "max" if table.sign == 1 else "min",
                "full_seconds": table.full_seconds,
                "best": table.sign * table.best,
            }
            for table in tables.values()
        },
        "python": platform.python_version(),
        "packages": versions,
        "processes": options.processes,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _budget(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
