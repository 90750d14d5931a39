"""What `run --from` and `space` are worth: on landscapes whose truth is known, without training.

python benchmarks/warm_start.py --studies 10 --json OUT

Epochs to a target of a child, with its parent's trials and without; then what is said of searches
in which there is nothing to find, and of some in which a bound is in the way.
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
import math
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.landscape import FINGERPRINT, Landscape, searched, settings
from search.explain.child import bequeath, child_of
from search.explain.space_advice import advise

TARGET = 0.885
"""True accuracy at the last epoch; the best there is has 0.9."""
PARENT_TRIALS, CHILD_TRIALS = 50, 150


@dataclass(frozen=True, kw_only=True, slots=True)
class Warm:
    """What a child took to the target, in epochs; all that it had where it did not get there."""

    seed: int
    taken: int
    """Trials of the parent that count for the child."""
    with_parent: int
    with_parent_reached: bool
    alone: int
    alone_reached: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What `space` said of one search."""

    seed: int
    findings: tuple[str, ...]
    """Kind, parameter and end or choice of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Searches of one landscape, and what should be said of them."""

    name: str
    landscape: Landscape
    trials: int
    searches: int
    """As many as the figures in the README are of."""
    expected: str
    """Finding that is true; empty where none is."""


def beyond(configuration: Mapping[str, Any]) -> float:
    """Return a hill whose best learning rate, 1.6, lies beyond the parent's bound."""
    return _hill(configuration, math.log10(configuration["learning_rate"]) - 0.2)


def inside(configuration: Mapping[str, Any]) -> float:
    """Return the same hill with its best learning rate, 0.16, inside the bounds."""
    return _hill(configuration, math.log10(configuration["learning_rate"]) + 0.8)


def noise(configuration: Mapping[str, Any]) -> float:
    """Return a plain: nothing matters."""
    return 0.85


def edge(configuration: Mapping[str, Any]) -> float:
    """Return a slope along the learning rate; weight decay and schedule do nothing."""
    height = 0.9 + 0.03 * math.log10(configuration["learning_rate"])
    height -= 0.5 * (configuration["momentum"] - 0.75) ** 2
    height -= 0.3 * (configuration["dropout"] - 0.25) ** 2
    height -= 0.01 * (math.log2(configuration["batch_size"]) - 6.5) ** 2
    return float(height - (0.0 if configuration["flip"] else 0.01))


def _hill(configuration: Mapping[str, Any], rate: float) -> float:
    height = 0.9 - 0.03 * rate**2 - 0.5 * (configuration["momentum"] - 0.75) ** 2
    height -= 0.01 * (math.log10(configuration["weight_decay"]) + 2.5) ** 2
    height -= 0.3 * (configuration["dropout"] - 0.2) ** 2
    height -= 0.01 * (math.log2(configuration["batch_size"]) - 6.5) ** 2
    height -= {"one-cycle": 0.0, "cosine": 0.01, "constant": 0.012}[configuration["schedule"]]
    return float(height - (0.0 if configuration["flip"] else 0.01))


HILLS: dict[str, Landscape] = {
    "best learning rate beyond the bound": beyond,
    "best learning rate inside": inside,
}
_EDGE = "edge learning_rate highest"
QUESTIONS = (
    Question(name="noise alone", landscape=noise, trials=100, searches=25, expected=""),
    Question(name="a bound in the way", landscape=edge, trials=100, searches=15, expected=_EDGE),
    Question(name="a bound in the way", landscape=edge, trials=250, searches=12, expected=_EDGE),
)
_CHILDREN = 10  # a landscape; as many as the figures in the README are of


def warm(landscape: Landscape, seed: int) -> Warm:
    """Search a parent, then its child to the target: with what the parent knows, and without.

    Both have the space that `space` advises and the same seed; with the parent come its trials as
    evidence and its best as first points.
    """
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place)
        budget = {"trials": PARENT_TRIALS}
        parent, _ = searched(runs / "parent", settings(seed, budget=budget), landscape)
        config = child_of(parent).config
        longer = config.budget.model_copy(update={"trials": CHILD_TRIALS})
        config = config.model_copy(update={"budget": longer})
        fresh = config.model_copy(update={"points": ()})
        lineage = bequeath(parent, config, FINGERPRINT)
        spent, reached = list[int](), list[bool]()
        for name, given, known in (("child", config, lineage), ("alone", fresh, None)):
            study, epochs = searched(runs / name, given, landscape, lineage=known, until=TARGET)
            spent.append(epochs)
            reached.append(
                any(
                    plain is not None
                    and len(trial.epochs) == config.max_epochs
                    and (landscape(plain["network"] | plain["training"]) or 0.0) >= TARGET
                    for trial in study.trials()
                    for plain in [trial.configuration]
                )
            )
    return Warm(
        seed=seed,
        taken=len(lineage.taken),
        with_parent=spent[0],
        with_parent_reached=reached[0],
        alone=spent[1],
        alone_reached=reached[1],
    )


def told(landscape: Landscape, seed: int, trials: int) -> Told:
    """Search, and return what is said of it."""
    with tempfile.TemporaryDirectory() as place:
        config = settings(seed, budget={"trials": trials})
        study, _ = searched(Path(place) / "land", config, landscape)
        findings = advise(study).findings
    words = (f"{found.kind} {found.key} {found.end or found.value}" for found in findings)
    return Told(seed=seed, findings=tuple(words))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 2 is returned, and one line printed, for what cannot be run."""
    command = argparse.ArgumentParser(prog="python benchmarks/warm_start.py", description=__doc__)
    command.add_argument(
        "--studies",
        type=int,
        help=f"of each kind; if left out {_CHILDREN} parents a hill, and of searches"
        f" {', '.join(str(question.searches) for question in QUESTIONS)}",
    )
    command.add_argument("--json", type=Path, help="where to write the figures")
    options = command.parse_args(arguments)
    if options.studies is not None and options.studies < 1:
        sys.stderr.write(f"error: --studies is {options.studies}; give 1 or more\n")
        return 2
    families = {
        name: [warm(landscape, seed) for seed in range(options.studies or _CHILDREN)]
        for name, landscape in HILLS.items()
    }
    Console().print(_warm_table(families))
    answers = [
        (asked, [told(asked.landscape, s, asked.trials) for s in range(count)])
        for asked in QUESTIONS
        for count in [options.studies or asked.searches]
    ]
    Console().print(_told_table(answers))
    if options.json:
        content = {
            "target": TARGET,
            "warm": {name: [asdict(one) for one in of] for name, of in families.items()},
            "told": [
                {"landscape": a.name, "trials": a.trials, "searches": [asdict(one) for one in of]}
                for a, of in answers
            ],
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _warm_table(families: Mapping[str, Sequence[Warm]]) -> Table:
    shown = Table(title=f"epochs to a true accuracy of {TARGET}, of 0.9 at best", box=None)
    for heading in ("", "children", "", "mean", "median", "reached"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, of in families.items():
        ways = {
            "with --from": [(one.with_parent, one.with_parent_reached) for one in of],
            "without": [(one.alone, one.alone_reached) for one in of],
        }
        for number, (way, found) in enumerate(ways.items()):
            epochs = [spent for spent, _ in found]
            shown.add_row(
                *([name, str(len(of))] if number == 0 else ["", ""]),
                way,
                f"{statistics.mean(epochs):.1f}",
                f"{statistics.median(epochs):.1f}",
                str(sum(reached for _, reached in found)),
            )
    return shown


def _told_table(answers: Sequence[tuple[Question, Sequence[Told]]]) -> Table:
    shown = Table(title="what is said of searches", box=None)
    for heading in ("", "trials", "searches", "said the bound", "said anything else"):
        shown.add_column(heading, justify="right" if heading else "left")
    for asked, of in answers:
        right = sum(asked.expected in one.findings for one in of)
        others = sum(bool(set(one.findings) - {asked.expected}) for one in of)
        bound = str(right) if asked.expected else "-"
        shown.add_row(asked.name, str(asked.trials), str(len(of)), bound, str(others))
    return shown


if __name__ == "__main__":
    sys.exit(main())
