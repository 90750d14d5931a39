"""Accuracy against parameters and seconds: named recipes, several seeds, beside published figures.

    python benchmarks/accuracy.py --recipes tiny laptop --seeds 5 --json OUT --figure OUT.png
    python benchmarks/accuracy.py --from A.json B.json --figure OUT.png

Every recipe is trained by `model.train.fit`, seeds side by side in processes of their own. By
default on the split that a study has, measured on its validation images; `--on test` trains on all
training images and opens the test images, which is a look at them.
`--from` trains nothing: it shows the recipes and seeds of answers that `--json` has written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:
    # Run as a script: this folder is in the path's first place, where `search` would be that file.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.accuracy_figure import draw_accuracy, print_accuracy
from benchmarks.published import FASHION, PUBLISHED
from benchmarks.recipes import RECIPES
from benchmarks.refusals import one_line
from benchmarks.side_by_side import Job, train_all
from data.images import DataError
from model.config import Configuration
from model.geometry import network_cost
from search.config.config import DataSection
from search.machine.environment import describe_environment

SAME = ("on", "data", "images", "validation_images")
"""Conditions without which accuracies are not put side by side."""


def summary(
    rows: Sequence[dict[str, Any]], recipes: dict[str, Configuration]
) -> dict[str, dict[str, Any]]:
    """Return, for each recipe that was trained, its cost and its accuracies over the seeds."""
    found = {}
    for name, configuration in recipes.items():
        mine = [row for row in rows if row["name"] == name]
        if not mine:
            continue
        cost = network_cost(configuration.network, FASHION)
        found[name] = {
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "epochs": configuration.training.epochs,
            "seeds": len(mine),
            "seconds_mean": float(np.mean([row["seconds"] for row in mine])),
            **_over_seeds("accuracy", mine),
            **_over_seeds("flip_accuracy", mine),
            "configuration": configuration.to_dict(),
        }
    return found


def _over_seeds(key: str, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return mean, standard deviation and half of the mean's 95 % interval (Student)."""
    values = np.array([row[key] for row in rows])
    if len(values) < 2:
        return {f"{key}_mean": float(values.mean()), f"{key}_sd": None, f"{key}_ci95": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {
        f"{key}_mean": float(values.mean()),
        f"{key}_sd": float(values.std(ddof=1)),
        f"{key}_ci95": half,
    }


def merged(paths: Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the recipes of answers that `--json` has written, and the conditions of each answer.

    Raises:
        ValueError: One cannot be read, has other `SAME` conditions than the first, another
            configuration of the same name, or a seed of it that was there already.
    """
    rows: list[dict[str, Any]] = []
    recipes: dict[str, Configuration] = {}
    conditions: list[dict[str, Any]] = []
    for path in paths:
        of, its_recipes, its_rows = _read(path)
        conditions.append(of)
        for name in SAME:
            if of[name] != conditions[0][name]:
                raise ValueError(
                    f"{path} has {name} {of[name]}, {paths[0]} has {conditions[0][name]}:"
                    " give them one at a time"
                )
        for name, recipe in its_recipes.items():
            if recipes.setdefault(name, recipe) != recipe:
                raise ValueError(f"{path} has another configuration of {name} than those before it")
        known = {(row["name"], row["seed"]) for row in rows}
        for row in its_rows:
            if (row["name"], row["seed"]) in known:
                raise ValueError(f"{path} has {row['name']} seed {row['seed']}, given before it")
        rows += its_rows
    return summary(rows, recipes), conditions


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Configuration], list[dict[str, Any]]]:
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))
        recipes = {
            name: Configuration.from_dict(of["configuration"])
            for name, of in answer["recipes"].items()
        }
        needed = (*SAME, "processes", "threads", "device")
        return {name: answer["conditions"][name] for name in needed}, recipes, answer["rows"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no answer that --json has written: {type(error).__name__}: {error}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(
        prog="python benchmarks/accuracy.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    command.add_argument("--seeds", type=int, default=3, help="how many")
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--epochs", type=int, help="of all; default: the recipes'")
    command.add_argument("--on", choices=("validation", "test"), default="validation")
    command.add_argument("--images", type=int, help="training images, before the split")
    command.add_argument("--validation-images", type=int, default=6000)
    command.add_argument("--data", choices=("fashion-mnist", "synthetic"), default="fashion-mnist")
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--threads", type=int, default=1, help="of one process")
    command.add_argument("--device", default="cpu")
    command.add_argument("--json", type=Path, help="where to write the figures, after every seed")
    command.add_argument("--figure", type=Path, metavar="OUT.png")
    command.add_argument("--from", type=Path, nargs="+", dest="answers", metavar="A.json")
    options = command.parse_args(arguments)
    given = vars(options)
    if options.answers is not None and (
        beside := [
            name
            for name, value in given.items()
            if name not in ("answers", "figure") and value != command.get_default(name)
        ]
    ):
        command.error(f"--from trains nothing: leave out --{beside[0].replace('_', '-')}")
    if min(options.seeds, options.processes, options.threads) < 1:
        command.error("--seeds, --processes and --threads must be at least 1")
    try:
        if options.answers is not None:
            found, conditions = merged(options.answers)
        else:
            recipes = {name: _lasting(RECIPES[name], options.epochs) for name in options.recipes}
            found, conditions = summary(_train_recipes(recipes, options), recipes), [given]
    except (ValueError, DataError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    # In a file as on a wide terminal.
    print_accuracy(found, conditions, Console(width=max(124, Console().width)))
    if options.figure is not None:
        draw_accuracy(options.figure, found, on=conditions[0]["on"])
    return 0


def _lasting(recipe: Configuration, epochs: int | None) -> Configuration:
    if epochs is None:
        return recipe
    return replace(recipe, training=replace(recipe.training, epochs=epochs))


def _train_recipes(
    recipes: dict[str, Configuration], options: argparse.Namespace
) -> list[dict[str, Any]]:
    if options.on == "test":
        told = "this opens the test images: choose nothing by what it shows"
        print(told, file=sys.stderr, flush=True)
    jobs = [
        Job(name=name, configuration=configuration, seed=options.first_seed + seed)
        for seed in range(options.seeds)
        for name, configuration in recipes.items()
    ]
    data = DataSection(
        source=options.data,
        train_images=options.images,
        validation_images=options.validation_images,
    )
    conditions = {name: str(value) for name, value in vars(options).items()}
    conditions |= describe_environment(Path(__file__).parent)
    rows: list[dict[str, Any]] = []
    for row in train_all(
        jobs,
        data,
        on=options.on,
        processes=options.processes,
        threads=options.threads,
        device=options.device,
    ):
        rows.append(row)
        print(
            f"{len(rows)}/{len(jobs)} {row['name']} seed {row['seed']}: {row['accuracy']:.4f}"
            f" (flip {row['flip_accuracy']:.4f}) in {row['seconds']:.0f} s",
            flush=True,
        )
        if options.json is not None:
            answer = {"conditions": conditions, "recipes": summary(rows, recipes), "rows": rows}
            answer["published"] = [asdict(published) for published in PUBLISHED]
            options.json.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    sys.exit(main())
