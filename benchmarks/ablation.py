"""What one setting is worth: a recipe, and the same with one change at a time, on the same seeds.

    python benchmarks/ablation.py --base laptop --seeds 5 --json OUT \
        --change training.flip=false --change "network.head=flatten network.dropout=0.2"

Validation images only: the split of a study, the same for all. Base and changes are trained seed by
seed, two at a time on one thread each, so that a machine that slows down slows all of them.
Differences are paired by seed; their intervals are Student's.
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
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.published import FASHION
from benchmarks.recipes import RECIPES
from benchmarks.refusals import one_line
from benchmarks.side_by_side import Job, train_all
from data.images import DataError
from model.config import Configuration
from model.geometry import network_cost
from search.config.config import DataSection
from search.machine.environment import describe_environment
from search.words import plural

BASE = "base"


def changed(base: Configuration, settings: str) -> Configuration:
    """Return `base` with settings such as "training.flip=true network.filters=[16,32]" put in.

    A value is JSON (true, 0.1, [16,32]), else a word (average).

    Raises:
        ValueError: An unknown setting, or a value that is not allowed; one line says which.
    """
    tree, given = base.settings(), set[str]()
    for setting in settings.split():
        place, separator, text = setting.partition("=")
        part, _, key = place.partition(".")
        if not separator or part not in tree or not key:
            raise ValueError(
                f"{setting!r} is no change: give network.KEY=VALUE or training.KEY=VALUE,"
                " several with blanks between them"
            )
        try:
            tree[part][key] = json.loads(text)
        except json.JSONDecodeError:
            tree[part][key] = text
        given.add(key)
    for key in ("kernel_sizes", "block_dropouts"):
        # One value for all blocks stays so where the number of blocks changes.
        if key not in given and len(set(tree["network"][key])) == 1:
            tree["network"][key] = tree["network"][key][:1]
    return Configuration.from_dict(tree)


def summary(rows: Sequence[dict[str, Any]], variants: dict[str, Configuration]) -> dict[str, Any]:
    """Return, for each variant, its mean accuracy and what it has over the base, in points."""
    by_name = {name: {r["seed"]: r for r in rows if r["name"] == name} for name in variants}
    found = {}
    for name, configuration in variants.items():
        mine, base = by_name[name], by_name[BASE]
        seeds = sorted(mine.keys() & base.keys())
        if not seeds:
            continue
        accuracy = np.array([mine[seed]["accuracy"] for seed in seeds])
        less = accuracy - [base[seed]["accuracy"] for seed in seeds]
        flips = [mine[s]["flip_accuracy"] - base[s]["flip_accuracy"] for s in seeds]
        seconds = np.array([mine[seed]["seconds"] for seed in seeds])
        cost = network_cost(configuration.network, FASHION)
        found[name] = {
            "seeds": seeds,
            "accuracy_mean": float(accuracy.mean()),
            "accuracy_sd": float(accuracy.std(ddof=1)) if len(seeds) > 1 else None,
            "less_base_points": paired(100 * less),
            "less_base_points_with_flip": paired(100 * np.array(flips)),
            "seconds_mean": float(seconds.mean()),
            "seconds_ratio": float(np.mean(seconds / [base[s]["seconds"] for s in seeds])),
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "configuration": configuration.to_dict(),
        }
    return found


def paired(differences: NDArray[np.float64]) -> list[float | None]:
    """Return the mean of differences and the ends of its 95 % interval (None for fewer than 2)."""
    mean = float(differences.mean())
    if len(differences) < 2:
        return [mean, None, None]
    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return [mean, mean - half, mean + half]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ablation; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(
        prog="python benchmarks/ablation.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--base", default="laptop", choices=RECIPES)
    command.add_argument("--set", action="append", default=[], help="of the base; as --change")
    command.add_argument("--change", action="append", default=[], metavar="'KEY=VALUE ...'")
    command.add_argument("--seeds", type=int, default=3, help="how many")
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--epochs", type=int, help="of all; default: the recipe's")
    command.add_argument("--images", type=int, help="training images, before the split")
    command.add_argument("--validation-images", type=int, default=6000)
    command.add_argument("--data", default="fashion-mnist", choices=("fashion-mnist", "synthetic"))
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--threads", type=int, default=1, help="of one process")
    command.add_argument("--device", default="cpu")
    command.add_argument("--json", type=Path, help="where to write the figures, after every seed")
    options = command.parse_args(arguments)
    if min(options.seeds, options.processes, options.threads) < 1:
        command.error("--seeds, --processes and --threads must be at least 1")
    more = [f"training.epochs={options.epochs}"] if options.epochs is not None else []
    try:
        base = changed(RECIPES[options.base], " ".join([*options.set, *more]))
        variants = {BASE: base} | {text: changed(base, text) for text in options.change}
        data = DataSection(
            source=options.data,
            train_images=options.images,
            validation_images=options.validation_images,
        )
        for configuration in variants.values():
            network_cost(configuration.network, FASHION)
        rows = _train(variants, data, options)
    except (ValueError, DataError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    # In a file as on a wide terminal: a change's settings are long.
    Console(width=max(120, Console().width)).print(_table(summary(rows, variants), options))
    return 0


def _train(variants: dict[str, Configuration], data: DataSection, options: Any) -> list[Any]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [
        Job(name=name, configuration=configuration, seed=seed)
        for seed in seeds
        for name, configuration in variants.items()
    ]
    conditions = {name: str(value) for name, value in vars(options).items()}
    conditions |= describe_environment(Path(__file__).parent)
    rows: list[dict[str, Any]] = []
    how = {"processes": options.processes, "threads": options.threads, "device": options.device}
    for row in train_all(jobs, data, **how):
        rows.append(row)
        print(
            f"{len(rows)}/{len(jobs)} seed {row['seed']} {row['name']}: {row['accuracy']:.4f}"
            f" (flip {row['flip_accuracy']:.4f}) in {row['seconds']:.0f} s",
            flush=True,
        )
        if options.json is not None:
            answer = {"conditions": conditions, "variants": summary(rows, variants), "rows": rows}
            options.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return rows


def _table(found: dict[str, Any], options: Any) -> Table:
    base = " ".join([options.base, *options.set])
    seeds = plural(options.seeds, "seed")
    shown = Table(title=f"{base}: validation accuracy in percent, {seeds}", box=None)
    shown.caption = "less base: paired by seed, with its 95 % interval; seconds: training steps,"
    shown.caption += f" {options.processes} at a time"
    shown.caption += f" on {plural(options.threads, 'thread')} each, on {options.device}"
    shown.add_column("")
    for heading in ("accuracy", "sd", "less base", "95 %", "s a seed", "ratio", "parameters"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, of in found.items():
        mean, low, high = of["less_base_points"]
        deviation = of["accuracy_sd"]
        shown.add_row(
            name,
            f"{100 * of['accuracy_mean']:.2f}",
            "" if deviation is None else f"{100 * deviation:.2f}",
            "" if name == BASE else f"{mean:+.2f}",
            "" if name == BASE or low is None else f"{low:+.2f} to {high:+.2f}",
            f"{of['seconds_mean']:.1f}",
            f"{of['seconds_ratio']:.2f}",
            f"{of['parameters']:,}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
