"""Take a first look at a data set before anything is trained on it: figures and one page."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from data.explore_facts import find_duplicates, measure_classes
from data.explore_page import Picture, render_page, tell_duplicates
from data.explore_plots import (
    plot_balance,
    plot_embedding,
    plot_intensity,
    plot_means,
    plot_samples,
    plot_twins,
)
from data.images import LabelledImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130
_NUM_TWINS = 12


def explore(train: LabelledImages, test: LabelledImages | None, out_dir: Path) -> Path:
    """Write balance, samples, means, pixel values, copies and an embedding; return index.html.

    `out_dir` is made if need be; each figure lies there as a PNG and once more inside the page.
    `test` is only counted and compared for copies, never drawn; None leaves it out.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    facts = measure_classes(train, test)
    duplicates = find_duplicates(train, test)
    copies = [*(duplicates.across or ()), *duplicates.within_train]
    twins = sorted(copies, key=lambda twin: twin.same_label)[:_NUM_TWINS]  # disagreements first
    drawn: list[tuple[str, str, str, Callable[[], Figure] | None]] = [
        (
            "balance",
            "Class balance",
            "A classifier that always names the largest class is right for "
            f"{100 * max(fact.num_train for fact in facts) / train.num_images:.1f} % of the "
            "training images.",
            lambda: plot_balance(facts),
        ),
        (
            "samples",
            "Samples",
            "Drawn at random with a fixed seed, one row a class.",
            lambda: plot_samples(train),
        ),
        (
            "means",
            "Mean and spread",
            "A sharp mean is a class whose images look alike; a bright spot on the right is where "
            "they differ.",
            lambda: plot_means(train),
        ),
        (
            "intensity",
            "Pixel values",
            "Shares of pixel values in steps of 8, on logarithmic scales.",
            lambda: plot_intensity(train),
        ),
        (
            "embedding",
            "Two principal components",
            "Classes that overlap here may still be told apart by the other components; classes "
            "that lie apart are easy.",
            lambda: plot_embedding(train),
        ),
        (
            "copies",
            "Exact copies",
            tell_duplicates(train, test, duplicates),
            (lambda: plot_twins(train, test, twins)) if twins else None,
        ),
    ]
    pictures = []
    for name, heading, text, plot in drawn:
        png = None if plot is None else _png(plot)
        if png is not None:
            (out_dir / f"{name}.png").write_bytes(png)
        pictures.append(Picture(heading=heading, text=text, png=png))
    page = out_dir / "index.html"
    page.write_text(render_page(train, test, facts, duplicates, pictures), encoding="utf-8")
    return page


def _png(plot: Callable[[], Figure]) -> bytes:
    import matplotlib
    import seaborn as sns  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    # The style is set for this figure only; a Figure of its own draws with Agg and needs no window.
    with matplotlib.rc_context(sns.axes_style("whitegrid", {"axes.edgecolor": "0.6"})):
        plot().savefig(
            buffer,
            format="png",
            dpi=_DOTS_PER_INCH,
            bbox_inches="tight",
            pad_inches=0.15,
            metadata={"Software": None},
        )
    return buffer.getvalue()
