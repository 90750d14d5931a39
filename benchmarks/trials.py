"""How many trials an hour: ours beside the stock trial, in turn, of one configuration.

    python benchmarks/trials.py --network small --trials 6 --epochs 3 --profile --json OUT
    python benchmarks/trials.py --study runs/laptop

Three tables: one trial on one core (images and floating-point operations a second, beside the
machine's own matrix product); trials an hour through Ray on all cores, with the accuracy they
reached; from a trial's being handed out to its first batch. Ours is what `run --quiet` does: with
its record and checkpoints, a screen that draws nothing, and bf16 where the hardware has it. The
stock trial (`stock_trial.py`) computes in fp32 and keeps no checkpoint, is given the same network,
recipe, images and split, and is not given our workers' memory settings, as nobody is told of them;
what they alone are worth is in the first table. Ray's start, and what `run` does before it (disk
check, probe), are in neither's wall time; seconds with them are told below the second table.
`--study` tells where the time of a search's slots went, by its record, and measures nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script: this folder is in the path's first place, where `search` would be that file.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from scipy import stats

from benchmarks.trials_print import print_all, print_slots
from benchmarks.trials_record import slot_time
from benchmarks.trials_step import KINDS, in_a_process
from benchmarks.trials_study import NETWORKS
from data.images import DataError
from search.machine.environment import describe_environment
from search.machine.slots import available_cpus
from search.study_error import StudyError

STEP_IMAGES = 12_000  # at most: images a second do not depend on more


def one_core(
    network: str, *, images: int, epochs: int, rounds: int, data: str, profile: bool
) -> dict[str, Any]:
    """Return the speed of each kind of trial on one core, measured in turn, and the ceilings.

    GFLOP/s are of useful work: two operations a multiply-add, forward and backward three times the
    forward ones.
    """
    found: dict[str, list[Any]] = {who: [] for who in KINDS}
    ceilings = []
    given = {"network": network, "images": min(images, STEP_IMAGES), "epochs": epochs}
    for seed in range(rounds):
        ceilings.append(in_a_process("trials_step", {}, ours=True))
        for who, done in found.items():
            print(f"one core, round {seed + 1} of {rounds}: {who}", file=sys.stderr, flush=True)
            case = given | {"who": who, "seed": seed, "data": data, "profile": False}
            done.append(in_a_process("trials_step", case, ours=who != "stock"))
    ceiling = {name: max(c[name] for c in ceilings) for name in ceilings[0]}
    answer: dict[str, Any] = {"ceiling_gflops": ceiling, "kinds": {}}
    for who, runs in found.items():
        speed = statistics.median(s for run in runs for s in run["images_per_second"])
        gflops = speed * runs[0]["multiply_adds"] * 2 * 3 / 1e9
        answer["kinds"][who] = {
            "precision": runs[0]["precision"],
            "images_per_second": speed,
            "gflops": gflops,
            "share_of_ceiling": gflops / ceiling[runs[0]["precision"]],
            "runs": [run["images_per_second"] for run in runs],
        }
    answer |= {key: runs[0][key] for key in ("parameters", "multiply_adds")}
    if profile:  # in a run of its own: the clock is read at every piece
        case = given | {"seed": 0, "data": data, "profile": True}
        answer["profile"] = {
            who: in_a_process("trials_step", case | {"who": who}, ours=who != "stock")["profile"]
            for who in ("stock", "ours")
        }
    return answer


def through_ray(
    network: str, *, trials: int, images: int, epochs: int, rounds: int, data: str, workers: int
) -> dict[str, Any]:
    """Return trials an hour of both kinds, their accuracies, and how long trials took to begin."""
    runs: dict[str, list[Any]] = {"stock": [], "ours": []}
    for seed in range(rounds):
        for who, done in runs.items():
            print(f"Ray, round {seed + 1} of {rounds}: {who}", file=sys.stderr, flush=True)
            case = {"who": who, "network": network, "trials": trials, "images": images}
            case |= {"epochs": epochs, "seed": seed, "data": data, "workers": workers}
            done.append(in_a_process("trials_ray", case, ours=False))
    answer: dict[str, Any] = {who: _of_kind(done) for who, done in runs.items()}
    ratio = answer["ours"]["trials_per_hour"] / answer["stock"]["trials_per_hour"]
    ours, stock = ([a for run in runs[who] for a in run["accuracies"]] for who in ("ours", "stock"))
    test = stats.ttest_ind(ours, stock, equal_var=False)
    interval = test.confidence_interval(0.95)
    answer["accuracy_ours_less_stock"] = [
        statistics.fmean(ours) - statistics.fmean(stock),
        float(interval.low),
        float(interval.high),
    ]
    return {"trials_per_hour_ratio": ratio, **answer}


def _of_kind(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    trials, seconds = sum(r["trials"] for r in runs), sum(r["seconds"] for r in runs)
    accuracies = [accuracy for run in runs for accuracy in run["accuracies"]]
    starts = [start for run in runs for start in run["starts"]]
    between = [gap for run in runs for gap in run["between_epochs"]]
    return {
        "trials": trials,
        "seconds": seconds,
        "trials_per_hour": 3600 * trials / seconds,
        "trials_per_hour_of_rounds": [3600 * r["trials"] / r["seconds"] for r in runs],
        "with_ray_seconds": sum(r["with_ray_seconds"] for r in runs),
        "accuracy_mean": statistics.fmean(accuracies),
        "accuracy_sd": statistics.stdev(accuracies),
        "accuracies": accuracies,
        "start_seconds": {
            name: _spread([s["seconds"] for s in starts if s["first"] == first])
            for name, first in (("first on a slot", True), ("following", False))
        },
        "between_epochs_seconds": _spread(between),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"count": len(values), "median": statistics.median(values), "max": max(values)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(
        prog="python benchmarks/trials.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--network", choices=NETWORKS, default="small")
    command.add_argument("--trials", type=int, default=6, help="of each kind, in each round")
    command.add_argument("--epochs", type=int, default=3)
    command.add_argument("--images", type=int, default=60_000, help="a tenth of them is held out")
    command.add_argument("--rounds", type=int, default=2, help="stock and ours in turn")
    command.add_argument("--data", choices=("fashion-mnist", "synthetic"), default="fashion-mnist")
    command.add_argument("--stock-workers", type=int, default=0, help="of the stock DataLoader")
    command.add_argument("--profile", action="store_true", help="of a step, on one core")
    command.add_argument("--only", choices=("one-core", "ray"), help="one part")
    command.add_argument("--study", type=Path, help="folder of a study: only where its time went")
    command.add_argument("--json", type=Path, help="where to write the figures")
    options = command.parse_args(arguments)
    # A trial's first epoch warms up and is not counted; a deviation needs two trials.
    for name, least in (("trials", 2), ("epochs", 2), ("images", 1000), ("rounds", 1)):
        if getattr(options, name) < least:
            command.error(f"--{name} must be at least {least}")
    conditions = {name: str(value) for name, value in vars(options).items()}
    conditions |= describe_environment(Path(__file__).parent)
    conditions |= {"slots": str(available_cpus()), "load": f"{os.getloadavg()[0]:.2f}"}
    answer: dict[str, Any] = {"conditions": conditions}
    console = Console(width=max(110, Console().width))
    try:
        if options.study is not None:
            answer["study"] = slot_time(options.study)
            print_slots(answer["study"], console)
        else:
            answer |= _measure(options)
            print_all(answer, console)
    except (ValueError, DataError, StudyError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    common = {"images": options.images, "epochs": options.epochs, "data": options.data}
    common["rounds"] = options.rounds
    if options.only != "ray":
        answer["one_core"] = one_core(options.network, profile=options.profile, **common)
    if options.only != "one-core":
        found = through_ray(
            options.network, trials=options.trials, workers=options.stock_workers, **common
        )
        answer |= {
            "trials_per_hour_ratio": found.pop("trials_per_hour_ratio"),
            "through_ray": found,
        }
    return answer


if __name__ == "__main__":
    sys.exit(main())
