"""What the race of finalists is worth: on tables of learning curves with noise, truth known.

python benchmarks/selection.py TABLE.npz --studies 20 --json OUT

Each study is a search with our defaults on the table plus noise; then the race picks a finalist by
the code that studies use. What a configuration is truly worth is the table itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if not __package__:
    # Run as a script: this folder is in the path's first place, where `search` would be that file.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.curve_table import CurveTable, TableError, load_table
from benchmarks.method import Job, Method, Point, Problem
from benchmarks.ours import ours
from benchmarks.simulation import simulate
from search.final.belief import optimism
from search.final.race import MIN_ROUNDS, Entrant, Verdict, judge

FINALISTS, MAX_ROUNDS = 4, 5  # a study's defaults
_IMAGES = {"validation_images": 6000, "train_images": 54000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Standard deviations of what is added to a true accuracy, as fractions."""

    seed: float = 0.0025
    """Of one training: its first weights, its batches."""
    split: float = 0.0022
    """Of one configuration on one validation part: which of its images suit it."""
    luck: float = 0.0030
    """Of one validation part, for all configurations alike."""
    epoch: float = 0.0010
    """Of one epoch of a training."""


@dataclass(kw_only=True, slots=True)
class Recording:
    """A method that keeps what it is told."""

    method: Method
    points: NDArray[np.float64]
    rows: dict[int, int] = field(default_factory=dict)
    """Trial -> row of the table."""
    seen: dict[int, list[float]] = field(default_factory=dict)
    """Trial -> values by epoch."""

    def ask(self) -> Job:
        return self.method.ask()

    def started(self, trial: int, point: Point) -> None:
        self.rows[trial] = int(((self.points - point) ** 2).sum(axis=1).argmin())
        self.seen[trial] = []
        self.method.started(trial, point)

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        if value is not None:
            self.seen[trial].append(value)
        return self.method.report(trial, epoch, value)


def one_study(table: CurveTable, noise: Noise, *, seed: int, budget: float) -> dict[str, Any]:
    """Search the table with noise, race the finalists, and compare with what is true.

    Args:
        table: Accuracies as fractions.
        noise: Of every training.
        seed: Of the noise and of the search.
        budget: Of the search, in full trainings.
    """
    draw = np.random.default_rng(seed)
    n, epochs = table.values.shape
    luck = draw.normal(0, noise.luck)
    once = draw.normal(0, np.hypot(noise.seed, noise.split), (n, 1))
    seen = table.values + luck + once + draw.normal(0, noise.epoch, (n, epochs))
    noisy = replace(table, values=seen)
    problem = Problem(names=table.names, max_epochs=epochs, budget=budget)
    search = Recording(method=ours(problem, 4, seed), points=table.points)
    course = simulate(noisy, search, workers=4, budget=budget)
    entrants, rows = _finalists(table, search)
    truth = {e.name: float(table.values[rows[e.name], e.epochs - 1]) for e in entrants}
    verdict, values = _race(entrants, truth, noise, draw)
    first = entrants[0]
    told = optimism(values, first.name, first.search_value, **_IMAGES)
    assert told is not None
    # As in a study: of a best that the search had stopped early nothing is told.
    is_told = first.search_epochs == first.epochs
    true_optimism = first.search_value - truth[first.name]
    sizes = {e.name: e.parameters for e in entrants}
    return {
        "seed": seed,
        "trials": course.trials,
        "search_best": truth[first.name],
        "leader": truth[verdict.leader],
        "chosen": truth[verdict.chosen],
        "best_finalist": max(truth.values()),
        "reported_optimism": told["optimism"] if is_told else None,
        "optimism_ci95": told["ci95"] if is_told else None,
        "true_optimism": true_optimism if is_told else None,
        "covered": told["ci95"][0] <= true_optimism <= told["ci95"][1] if is_told else None,
        "size_ratio": sizes[verdict.chosen] / sizes[first.name],
        "rounds": verdict.rounds,
        "trainings": sum(map(len, values.values())),
        "ended": verdict.ended,
    }


def _finalists(table: CurveTable, search: Recording) -> tuple[list[Entrant], dict[str, int]]:
    """Return the best trials, the best first, and one row that stands for a baseline."""
    order = sorted((t for t in search.seen if search.seen[t]), key=lambda t: -max(search.seen[t]))
    rows = {f"t{t:04d}": search.rows[t] for t in order[:FINALISTS]}
    lengths, tops, seen = dict[str, int](), dict[str, float](), dict[str, int]()
    for trial in order[:FINALISTS]:
        values, name = search.seen[trial], f"t{trial:04d}"
        whole = len(values) == table.max_epochs
        lengths[name] = 1 + int(np.argmax(values)) if whole else table.max_epochs
        tops[name], seen[name] = max(values), 1 + int(np.argmax(values))
    finals = np.where(np.isfinite(table.finals), table.finals, -np.inf)
    rows["baseline"] = int(np.argsort(finals)[int(0.9 * table.num_rows)])
    lengths["baseline"], tops["baseline"] = table.max_epochs, float(finals[rows["baseline"]])
    entrants = [
        Entrant(
            name=name,
            kind="baseline" if name == "baseline" else "finalist",
            trial=name,
            # What a training costs stands for the size, which the table does not tell.
            parameters=round(1000 * float(table.seconds[row, -1])),
            epochs=lengths[name],
            search_value=tops[name],
            search_epochs=seen.get(name, lengths[name]),
        )
        for name, row in rows.items()
    ]
    return entrants, rows


def _race(
    entrants: list[Entrant], truth: dict[str, float], noise: Noise, draw: np.random.Generator
) -> tuple[Verdict, dict[str, list[float | None]]]:
    values: dict[str, list[float | None]] = {e.name: [] for e in entrants}
    verdict: Verdict | None = None
    spread = float(np.hypot(np.hypot(noise.seed, noise.split), noise.epoch))
    while verdict is None or not verdict.ended:
        alive = verdict.alive if verdict else tuple(values)
        for _ in range(MIN_ROUNDS if verdict is None else 1):
            luck = draw.normal(0, noise.luck)
            for name in alive:
                values[name].append(truth[name] + luck + draw.normal(0, spread))
        verdict = judge(entrants, values, max_rounds=MAX_ROUNDS, **_IMAGES)
        assert verdict is not None
    return verdict, values


def summary(studies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over studies; differences with their 95 % Student intervals."""
    columns = {key: np.array([s[key] for s in studies], dtype=float) for key in _COLUMNS}
    told = np.isfinite(columns["true_optimism"])
    for key in ("reported_optimism", "true_optimism"):
        columns[key] = columns[key][told]
    return {
        "studies": len(studies),
        "told": int(told.sum()),
        **{key: float(values.mean()) for key, values in columns.items()},
        "chosen_less_search_best": _paired(columns["chosen"] - columns["search_best"]),
        "leader_less_search_best": _paired(columns["leader"] - columns["search_best"]),
        "reported_less_true_optimism": _paired(
            columns["reported_optimism"] - columns["true_optimism"]
        ),
        "covered": float(np.mean([s["covered"] for s in studies if s["covered"] is not None])),
    }


_COLUMNS = (
    "search_best",
    "leader",
    "chosen",
    "best_finalist",
    "reported_optimism",
    "true_optimism",
    "size_ratio",
    "rounds",
    "trainings",
)


def _paired(differences: NDArray[np.float64]) -> list[float]:
    mean, error = float(differences.mean()), float(stats.sem(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return [mean, mean - half, mean + half]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(prog="python benchmarks/selection.py", description=__doc__)
    command.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    command.add_argument("--studies", type=int, default=20)
    command.add_argument("--budget", type=float, default=20.0, help="in full trainings")
    command.add_argument("--scale", type=float, default=1.0, help="of all noise")
    command.add_argument("--json", type=Path, help="where to write the figures")
    options = command.parse_args(arguments)
    noise = Noise(**{k: options.scale * getattr(Noise(), k) for k in Noise.__slots__})
    found = {}
    try:
        tables = [load_table(path) for path in options.tables]
    except TableError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for table in tables:
        if table.sign < 0 or table.best > 100 or table.best <= 1:
            sys.stderr.write(f"error: {table.name} holds no accuracies in percent; give one\n")
            return 2
        shares = replace(table, values=table.values / 100)
        studies = [
            one_study(shares, noise, seed=seed, budget=options.budget)
            for seed in range(options.studies)
        ]
        found[table.name] = {"summary": summary(studies), "studies": studies}
        Console().print(_table(table.name, studies))
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__}
        text = json.dumps({"tables": found, "versions": machine}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _table(name: str, studies: Sequence[dict[str, Any]]) -> Table:
    told = summary(studies)
    shown = Table(title=f"{name}: {len(studies)} studies, accuracies in percent", box=None)
    shown.add_column("")
    shown.add_column("mean", justify="right")
    shown.add_column("95 % interval", justify="right")
    rows: list[tuple[str, Any]] = [
        ("true value of the search's best", told["search_best"]),
        ("true value of the race's leader", told["leader"]),
        ("true value of the chosen one", told["chosen"]),
        ("best true value of any finalist", told["best_finalist"]),
        ("leader less search's best", told["leader_less_search_best"]),
        ("chosen less search's best", told["chosen_less_search_best"]),
        ("optimism reported", told["reported_optimism"]),
        ("optimism in truth", told["true_optimism"]),
        ("reported less true", told["reported_less_true_optimism"]),
    ]
    for label, value in rows:
        mean, *rest = value if isinstance(value, list) else [value]
        bounds = f"{100 * rest[0]:+.3f} to {100 * rest[1]:+.3f}" if rest else ""
        shown.add_row(label, f"{100 * mean:.3f}", bounds)
    shown.add_row("intervals of the optimism that hold the truth", f"{100 * told['covered']:.0f} %")
    shown.add_row("studies whose best was trained to its end", str(told["told"]))
    shown.add_row("cost of the chosen one, of the search's best", f"{told['size_ratio']:.2f}")
    shown.add_row("rounds", f"{told['rounds']:.1f}")
    shown.add_row("trainings in the race", f"{told['trainings']:.1f}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
