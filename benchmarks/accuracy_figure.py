"""Published figures on Fashion-MNIST; accuracy against parameters as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from data.images import ImageShape
from model.geometry import network_cost
from search.config.baselines import BASELINES
from search.words import plural


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What others report, on the 10,000 test images unless `note` says otherwise."""

    name: str
    accuracy: float
    """In percent."""
    parameters: int | None
    """As stated there; None where it is not."""
    epochs: int | None
    note: str
    source: str


FASHION = ImageShape(channels=1, height=28, width=28, num_classes=10)
_ZALANDO = "github.com/zalandoresearch/fashion-mnist, README, table of benchmarks"
_FASTAI = "github.com/fastai/course22p2, nbs/"
_NOTEBOOK = "Fashion-Class-Classifier notebook"
PUBLISHED = (
    Published(
        name="2 conv, under 100K (hardmaru)",
        accuracy=92.5,
        parameters=100_000,
        epochs=None,
        note="parameters are at most these",
        source=_ZALANDO,
    ),
    Published(
        name="2 conv + 3 dense",
        accuracy=93.4,
        parameters=500_000,
        epochs=None,
        note="parameters are about these",
        source=_ZALANDO,
    ),
    Published(
        name="Google AutoML",
        accuracy=93.9,
        parameters=None,
        epochs=None,
        note="24 compute hours",
        source=_ZALANDO,
    ),
    Published(
        name="DenseNet-BC", accuracy=95.4, parameters=768_000, epochs=None, note="", source=_ZALANDO
    ),
    Published(
        name="fastai ResNet",
        accuracy=92.8,
        parameters=1_229_000,
        epochs=5,
        note="one seed",
        source=f"{_FASTAI}13_resnet.ipynb",
    ),
    Published(
        name="fastai wide ResNet",
        accuracy=94.3,
        parameters=4_900_000,
        epochs=20,
        note="one seed; 94.5 with the mirror image",
        source=f"{_FASTAI}14_augment.ipynb",
    ),
    Published(
        name="JAHS-Bench-201, Hyperband",
        accuracy=95.18,
        parameters=None,
        epochs=None,
        note="validation, predicted by a surrogate; about 100 full evaluations of 200 epochs",
        source="github.com/automl/jahs_bench_201, docs/leaderboards.md",
    ),
    *(
        Published(
            name=f"notebook, {name}",
            accuracy=100 * baseline.published_test_accuracy,
            parameters=network_cost(baseline.network, FASHION).parameters,
            epochs=None,
            note="one run; parameters as counted here",
            source=_NOTEBOOK,
        )
        for name, baseline in BASELINES.items()
    ),
)
"""Rows that ours are put beside."""

_OURS, _THEIRS = "#0072b2", "#7f7f7f"


def print_accuracy(
    found: Mapping[str, Any], conditions: Mapping[str, Any], console: Console
) -> None:
    """Print ours, what others report, and under what conditions ours were measured."""
    shown = Table(
        title=f"Fashion-MNIST, {conditions['on']} accuracy in percent; published: test",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("", no_wrap=True)
    headings = ("parameters", "mult.-adds", "epochs", "s a seed", "accuracy", "sd", "+-", "flip")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, of in found.items():
        spread = (of["accuracy_sd"], of["accuracy_ci95"])
        shown.add_row(
            name,
            f"{of['parameters']:,}",
            f"{of['multiply_adds'] / 1e6:.1f} M",
            str(of["epochs"]),
            f"{of['seconds_mean']:.0f}",
            f"{100 * of['accuracy_mean']:.2f}",
            *("" if value is None else f"{100 * value:.2f}" for value in spread),
            f"{100 * of['flip_accuracy_mean']:.2f}",
        )
    shown.add_section()
    sources = list(dict.fromkeys(row.source for row in PUBLISHED))
    for row in PUBLISHED:
        size = "" if row.parameters is None else f"{row.parameters:,}"
        name = f"{row.name} ({sources.index(row.source) + 1})"
        shown.add_row(name, size, "", str(row.epochs or ""), "", f"{row.accuracy:.2f}")
    console.print(shown)
    trained = "all training images" if conditions["on"] == "test" else "a study's split"
    lines = [
        f"Ours: trained on {trained}, after the last epoch; mean and standard deviation of"
        f" {plural(conditions['seeds'], 'seed')}, +- half of the mean's 95 % interval. flip: by the"
        " mean logits of an image and its mirror image. s: training steps,"
        f" {conditions['processes']} at a time on {plural(conditions['threads'], 'thread')} each,"
        f" on {conditions['device']}."
    ]
    lines += [f"{row.name}: {row.note}." for row in PUBLISHED if row.note]
    lines += [f"({number}) {source}" for number, source in enumerate(sources, start=1)]
    console.print(*lines, sep="\n", highlight=False)


def draw_accuracy(path: Path, found: Mapping[str, Any], *, on: str) -> None:
    """Draw accuracy in percent against parameters (log scale), ours with one standard deviation.

    Published figures without parameters are dotted lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    try:
        axis.set_xscale("log")
        for name, of in found.items():
            deviation = of["accuracy_sd"]
            axis.errorbar(
                of["parameters"],
                100 * of["accuracy_mean"],
                yerr=None if deviation is None else 100 * deviation,
                fmt="o",
                color=_OURS,
                capsize=3,
            )
            label = f"{name}, {of['epochs']} epochs"
            _label(axis, of["parameters"], 100 * of["accuracy_mean"], label, _OURS)
        for row in PUBLISHED:
            if row.parameters is not None:
                axis.plot(row.parameters, row.accuracy, "x", color=_THEIRS)
                epochs = f", {row.epochs} epochs" if row.epochs else ""
                _label(axis, row.parameters, row.accuracy, f"{row.name}{epochs}", _THEIRS)
            else:
                axis.axhline(row.accuracy, color=_THEIRS, linestyle=":", linewidth=1)
                axis.annotate(
                    row.name,
                    (0.99, row.accuracy),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize="small",
                    color=_THEIRS,
                )
        axis.margins(x=0.25, y=0.1)
        axis.set_xlabel("parameters")
        axis.set_ylabel(f"accuracy in percent (ours: {on}; published: test)")
        axis.set_title("Fashion-MNIST: accuracy against size", loc="left")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def _label(axis: Any, x: float, y: float, text: str, colour: str) -> None:
    place = {"xytext": (6, 4), "textcoords": "offset points"}
    axis.annotate(text, (x, y), fontsize="small", color=colour, **place)
