"""What a trial costs besides its training: the driver with all its records, and Ray alone.

    python benchmarks/bookkeeping.py --trials 10000 --slots 2 --json OUT

Ray's own scalability test (`test_bookkeeping_overhead`), scaled to one machine: trials of no work,
one epoch each, through Ray Tune. In turn: Ray alone (random search, no loggers), our driver with
everything recorded, and that with TensorBoard, the screen and the keeper of checkpoints watching.
Before them the driver without Ray, in this process alone, by part: the precise measure of ours.

CPU is that of the thread that drives the search; wall time counts whatever else the machine does.
`in ours`: the CPU inside our searcher, scheduler and callback; what else is more than Ray's is what
Tune takes for any searcher of others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

import sqlalchemy as sa
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.stopwatch import Watch
from benchmarks.through_ray import FIGURES, LONGER, SHAPE, made_up_study, through_ray
from model.train import EpochMetrics
from search.drive.driver import Driver
from search.prune.assignment import Assignment


def main() -> None:
    """Run all in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="of the runs through Ray")
    parser.add_argument("--without-ray", action="store_true", help="only the driver by itself")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    answer: dict[str, Any] = {
        "trials": options.trials,
        "slots": options.slots,
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("ray", "optuna", "sqlalchemy")},
        "load": os.getloadavg()[0],
        "alone": alone(options.trials, options.slots),
        "longer": alone(max(1, options.trials // 10), options.slots, epochs=LONGER),
    }
    console = Console()
    console.print(_parts_table(answer["alone"]))
    if not options.without_ray:
        answer["runs"] = through_ray(options.trials, options.slots, options.rounds)
        console.print(_runs_table(answer["runs"]))
    answer["costs"] = _costs(answer)
    if options.json is not None:
        options.json.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def alone(trials: int, slots: int, *, epochs: int = 1) -> dict[str, Any]:
    """Return the milliseconds per trial of the driver without Ray, by part, and as they grow."""
    names = ("asking", "rungs and memory", "Optuna's tables", "our tables", "commits")
    watches = {name: Watch() for name in names}
    tenths: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bookkeeping-") as folder:
        study = made_up_study(Path(folder) / "study", trials, slots, epochs=epochs)
        driver = Driver(study, shape=SHAPE, slots=slots)
        strategy = ("judge", "end", "promote", "next_promotion")
        record = ("add_event", "add_epoch", "start_attempt", "place_attempt", "end_attempt")
        total, asking = Watch(), watches["asking"]
        with (
            asking.on(driver._strategy, "propose"),
            watches["rungs and memory"].on(driver._strategy, *strategy),
            watches["Optuna's tables"].on(driver._ledger, "add", "report", "note", "end"),
            watches["our tables"].on(study.record, *record),
            watches["commits"].on(sa.Connection, "commit"),
        ):
            spent = 0.0
            for done, _ in enumerate(_drive(driver, total), start=1):
                if done % max(1, trials // 10) == 0:
                    now = total.cpu - asking.cpu
                    tenths.append(1000 * (now - spent) / max(1, trials // 10))
                    spent = now
    parts = {name: 1000 * watch.cpu / trials for name, watch in watches.items()}
    parts["the rest"] = 1000 * total.cpu / trials - sum(parts.values())
    return {
        "cpu_ms": 1000 * (total.cpu - asking.cpu) / trials,
        "wall_ms": 1000 * (total.wall - asking.wall) / trials,
        "ask_ms": parts["asking"],
        "parts_ms": parts,
        "tenths_ms": tenths,
    }


def _costs(answer: dict[str, Any]) -> dict[str, float]:
    """Return what a trial and an epoch cost, as `cluster_size.py` takes it."""
    once, longer = answer["alone"]["cpu_ms"], answer["longer"]["cpu_ms"]
    epoch = (longer - once) / (LONGER - 1)
    costs = {"ours_trial_ms": once - epoch, "ours_epoch_ms": epoch}
    if runs := answer.get("runs"):
        once, longer = runs[0]["cpu_ms"], runs[-1]["cpu_ms"]
        epoch = (longer - once) / (LONGER - 1)
        costs |= {"ray_trial_ms": once - epoch, "ray_epoch_ms": epoch}
    return costs


def _drive(driver: Driver, watch: Watch) -> Iterator[int]:
    """Search without workers; count the driver's time, and give every trial that ends."""
    busy: deque[Assignment] = deque()
    while True:
        with watch.running():
            while (assignment := driver.next()) is not None:
                busy.append(assignment)
        if not busy:
            return
        trial = busy.popleft().trial
        goes_on, epoch = True, 0
        while goes_on:
            epoch += 1
            with watch.running(), driver.step():
                if epoch == 1:
                    driver.place(trial, node="node", pid=1)
                goes_on = driver.on_epoch(trial, _epoch(trial, epoch)).action == "continue"
        yield trial


def _epoch(trial: int, epoch: int) -> EpochMetrics:
    value = (trial * 7919 % 10007) / 10007
    return EpochMetrics(epoch=epoch, val_accuracy=value * (1 - 0.5**epoch), **FIGURES)


def _parts_table(found: dict[str, Any]) -> Table:
    title = "The driver without Ray: CPU milliseconds per trial"
    table = Table("part", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("ms", justify="right")
    for name, value in found["parts_ms"].items():
        table.add_row(name, f"{value:.3f}")
    table.add_section()
    table.add_row("all but asking", f"{found['cpu_ms']:.3f}")
    table.add_row("the same as wall time", f"{found['wall_ms']:.3f}")
    for name, at in (("first", 0), ("last", -1)) if found["tenths_ms"] else ():
        table.add_row(f"in the {name} tenth of the trials", f"{found['tenths_ms'][at]:.3f}")
    return table


def _runs_table(runs: Sequence[dict[str, Any]]) -> Table:
    title = "Through Ray: milliseconds per trial, asking apart"
    table = Table("who", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("seconds", "CPU", "wall", "asking", "CPU - Ray's", "wall - Ray's", "in ours"):
        table.add_column(name, justify="right")
    ray: dict[str, Any] = {}
    for run in runs:
        ray = run if run["who"] == "Ray alone" else ray
        cpu = run["cpu_ms"] - run["ask_cpu_ms"]
        wall = run["wall_ms"] - run["ask_wall_ms"]
        row = [f"{run['seconds']:.1f}", f"{cpu:.2f}", f"{wall:.2f}", f"{run['ask_cpu_ms']:.2f}"]
        if run["who"].startswith("ours"):
            row += [f"{cpu - ray['cpu_ms']:+.2f}", f"{wall - ray['wall_ms']:+.2f}"]
            row.append(f"{run['ours_cpu_ms']:.2f}")
        table.add_row(run["who"], *row)
    return table


if __name__ == "__main__":
    main()
