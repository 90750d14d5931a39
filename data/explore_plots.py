"""Draw the figures of the first look; each function returns a matplotlib Figure.

No window is opened. One palette throughout: training and test images keep their colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from data.explore_facts import ClassFacts, Twin
from data.images import LabelledImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

TRAIN_COLOUR, TEST_COLOUR = "#3b6fb6", "#e08a2c"
_NUM_SAMPLES = 14  # of each class
_NUM_EMBEDDED = 3_000
_MAX_EMBEDDED_VALUES = 20_000_000  # bounds the memory of the embedding for large pictures
_WIDTH_INCHES = 9.0


def plot_balance(facts: Sequence[ClassFacts]) -> Figure:
    """Draw how many images each class has, training and test."""
    import pandas as pd
    import seaborn as sns  # type: ignore[import-untyped]

    counts = {"training": [fact.num_train for fact in facts]}
    if facts[0].num_test is not None:
        counts["test"] = [fact.num_test or 0 for fact in facts]
    table = pd.DataFrame(
        [
            {"class": fact.name, "part": part, "images": number}
            for part, numbers in counts.items()
            for fact, number in zip(facts, numbers, strict=True)
        ]
    )
    figure, axes = _figure(1.2 + 0.42 * len(facts))
    colours = {"training": TRAIN_COLOUR, "test": TEST_COLOUR}
    sns.barplot(
        data=table,
        x="images",
        y="class",
        hue="part",
        palette=colours,
        saturation=1,
        ax=axes,
        legend=len(counts) > 1,
    )
    for container in cast("list[BarContainer]", axes.containers):
        axes.bar_label(container, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.margins(x=0.1)
    axes.set(xlabel="number of images", ylabel="")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if len(counts) > 1:
        sns.move_legend(
            axes, "lower right", bbox_to_anchor=(1, 1), ncols=2, title="", frameon=False
        )
    sns.despine(figure, left=True)
    return _titled(figure, axes, "Images in each class")


def plot_samples(data: LabelledImages, seed: int = 0) -> Figure:
    """Show random training images, one row a class."""
    generator = np.random.default_rng(seed)
    rows = []
    _, _, height, width = data.images.shape
    for label in range(len(data.classes)):
        own = np.flatnonzero(data.labels == label)
        chosen = generator.permutation(own)[:_NUM_SAMPLES]
        rows.append([_for_display(data.images[index]) for index in chosen])
    gap = max(1, height // 14)
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            y, x = number * (height + gap), column * (width + gap)
            canvas[y : y + height, x : x + width] = image
    figure, axes = _figure(0.6 + (_WIDTH_INCHES - 1.2) * canvas.shape[0] / canvas.shape[1])
    axes.imshow(canvas, interpolation="nearest")
    axes.set_yticks([k * (height + gap) + height / 2 for k in range(len(rows))], data.classes)
    axes.set_xticks([])
    _bare(axes)
    most = "Up to " if min(map(len, rows)) < columns else ""
    return _titled(figure, axes, f"{most}{columns} random training images of each class")


def plot_means(data: LabelledImages) -> Figure:
    """Show each class's mean image and, beside it, the standard deviation of each pixel."""
    from matplotlib.figure import Figure

    columns = min(5, len(data.classes))
    rows = math.ceil(len(data.classes) / columns)
    figure = Figure(figsize=(_WIDTH_INCHES, 0.6 + 1.05 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    _, _, height, width = data.images.shape
    shown = None
    for label, axes in enumerate(grid.flat):
        _bare(axes)
        axes.set(xticks=[], yticks=[])
        pixels = data.images[data.labels == label] if label < len(data.classes) else None
        if pixels is None or not len(pixels):
            axes.set_axis_off()
            continue
        mean = _for_display(pixels.mean(axis=0).astype(np.uint8))
        deviation = pixels.std(axis=0, dtype=np.float32).mean(axis=0)  # over the channels
        axes.imshow(mean, extent=(0, width, height, 0), interpolation="nearest")
        shown = axes.imshow(
            deviation,
            extent=(width + 1, 2 * width + 1, height, 0),
            cmap="magma",
            vmin=0,
            vmax=128,
            interpolation="nearest",
        )
        axes.set_xlim(0, 2 * width + 1)
        axes.set_title(_short(data.classes[label]), fontsize=9)
    if shown is not None:
        bar = figure.colorbar(shown, ax=grid, shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("pixel std. dev.", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle("Mean (left) and standard deviation (right) of each class", **_TITLE)
    return figure


def plot_intensity(data: LabelledImages) -> Figure:
    """Draw the distribution of pixel values, of all images and class by class."""
    import pandas as pd
    import seaborn as sns
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    shares = np.stack(
        [
            np.bincount(data.images[data.labels == label].reshape(-1) // 8, minlength=32)
            for label in range(len(data.classes))
        ]
    ).astype(np.float64)
    overall = 100 * shares.sum(axis=0) / shares.sum()
    each = 100 * shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(_WIDTH_INCHES, 2.9 + 0.28 * len(data.classes)), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2.0, 0.28 * len(data.classes)))
    above.bar(np.arange(32) * 8, overall, width=7.2, align="edge", color=TRAIN_COLOUR)
    above.set(yscale="log", xlim=(0, 256), ylim=(0.05, 100), ylabel="% of pixels (log)")
    above.yaxis.set_major_formatter("{x:g}")
    above.set_xticks(range(0, 257, 32))
    above.grid(axis="x", visible=False)
    names = [str(low) if low % 32 == 0 else "" for low in range(0, 256, 8)]
    table = pd.DataFrame(np.maximum(each, 1e-3), index=list(data.classes), columns=names)
    sns.heatmap(
        table,
        ax=below,
        norm=LogNorm(vmin=0.1, vmax=100),
        cmap="crest",
        xticklabels=names,
        yticklabels=True,
        cbar_kws={"label": "% (log)", "pad": 0.02, "format": "{x:g}"},
    )
    below.set(xlabel="pixel value, in steps of 8", ylabel="")
    below.tick_params(length=0)
    below.set_xticks(range(0, 33, 4), [str(low) for low in range(0, 257, 32)], rotation=0)
    _title(above, "Pixel values: all training images")
    _title(below, "Pixel values: each class")
    return figure


def plot_embedding(data: LabelledImages, seed: int = 0) -> Figure:
    """Draw a random sample of training images on their first two principal components."""
    import seaborn as sns
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]

    num_values = data.images[0].size
    num_shown = max(2, min(data.num_images, _NUM_EMBEDDED, _MAX_EMBEDDED_VALUES // num_values))
    chosen = np.random.default_rng(seed).permutation(data.num_images)[:num_shown]
    pixels = data.images[chosen].reshape(num_shown, -1).astype(np.float32) / 255
    pca = PCA(n_components=2, svd_solver="randomized", random_state=seed)
    points = pca.fit_transform(pixels)
    first, second = 100 * pca.explained_variance_ratio_
    figure, axes = _figure(6.0)
    names = [data.classes[label] for label in data.labels[chosen]]
    sns.scatterplot(
        x=points[:, 0],
        y=points[:, 1],
        hue=names,
        hue_order=[name for name in data.classes if name in names],
        palette=dict(zip(data.classes, _class_colours(len(data.classes)), strict=True)),
        s=14,
        alpha=0.75,
        linewidth=0,
        ax=axes,
    )
    axes.set(
        xlabel=f"first component ({first:.1f} % of the variance)",
        ylabel=f"second component ({second:.1f} % of the variance)",
    )
    sns.move_legend(
        axes,
        "upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        markerscale=2,
        ncols=math.ceil(len(data.classes) / 24),
    )
    sns.despine(figure)
    title = f"{num_shown:,} training images on two axes: {first + second:.1f} % of the variance"
    return _titled(figure, axes, title)


def plot_twins(train: LabelledImages, test: LabelledImages | None, twins: Sequence[Twin]) -> Figure:
    """Show pairs of images with the same pixels, and what each is labelled."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(twins) / 6)
    figure = Figure(figsize=(_WIDTH_INCHES, 0.7 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, twin in zip(grid.flat, twins, strict=False):
        other = test if twin.second_part == "test" and test is not None else train
        axes.imshow(_for_display(train.images[twin.first]), interpolation="nearest")
        axes.set_title(
            f"train {twin.first}: {_short(train.classes[train.labels[twin.first]])}\n"
            f"{twin.second_part} {twin.second}: {_short(other.classes[other.labels[twin.second]])}",
            fontsize=7,
        )
    figure.suptitle(f"{len(twins)} images that occur twice, with both labels", **_TITLE)
    return figure


_TITLE: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "x": 0.01, "ha": "left"}


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    return figure, figure.subplots()


def _titled(figure: Figure, axes: Axes, title: str) -> Figure:
    _title(axes, title)
    return figure


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=8)


def _short(name: str) -> str:
    """Cut a class's name to what fits above one image; axes and legends show it in full."""
    return name if len(name) <= 18 else f"{name[:16]}..."


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _class_colours(num_classes: int) -> list[tuple[float, float, float]]:
    import seaborn as sns

    return list(sns.color_palette("tab10" if num_classes <= 10 else "husl", num_classes))


def _for_display(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn (C, H, W) into (H, W, 3); grey is repeated."""
    return np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
