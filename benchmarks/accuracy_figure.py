"""Accuracy against parameters, ours beside what others report: as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.published import PUBLISHED
from search.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

_OURS, _THEIRS = "#0072b2", "#595959"
_FONT, _MARKER = 9, 5  # sizes in points, the marker's from its middle
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_POINTS_AWAY = (7, 10, 14)
"""Where a label may be from its point."""
_ALIGN_X: dict[int, Literal["left", "center", "right"]] = {1: "left", 0: "center", -1: "right"}
_ALIGN_Y: dict[int, Literal["bottom", "center", "top"]] = {1: "bottom", 0: "center", -1: "top"}
_Point = tuple[str, float, float, str]
"""Label, parameters, accuracy in percent, colour."""
_Place = tuple[tuple[float, float], tuple[float, float]]
"""Where what is labelled is, and the label's way from there in points."""


def print_accuracy(
    found: Mapping[str, Any], conditions: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """Print ours, what others report, and under what conditions ours were measured."""
    on = conditions[0]["on"]
    shown = Table(
        title=f"Fashion-MNIST, {on} accuracy in percent; published: test",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("", no_wrap=True)
    headings = ("parameters", "mult.-adds", "epochs", "seeds", "s a seed")
    for heading in (*headings, "accuracy", "sd", "+-", "flip"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, of in found.items():
        spread = (of["accuracy_sd"], of["accuracy_ci95"])
        shown.add_row(
            name,
            f"{of['parameters']:,}",
            f"{of['multiply_adds'] / 1e6:.1f} M",
            str(of["epochs"]),
            str(of["seeds"]),
            f"{of['seconds_mean']:.0f}",
            f"{100 * of['accuracy_mean']:.2f}",
            *("" if value is None else f"{100 * value:.2f}" for value in spread),
            f"{100 * of['flip_accuracy_mean']:.2f}",
        )
    shown.add_section()
    sources = list(dict.fromkeys(row.source for row in PUBLISHED))
    for row in PUBLISHED:
        size = "" if row.parameters is None else f"{row.bound}{row.parameters:,}"
        name = f"{row.label} ({sources.index(row.source) + 1})"
        shown.add_row(name, size, "", str(row.epochs or ""), "", "", f"{row.accuracy:.2f}")
    console.print(shown)
    trained = "all training images" if on == "test" else "a study's split"
    how = dict.fromkeys(
        f"{of['processes']} at a time on {plural(int(of['threads']), 'thread')} each,"
        f" on {of['device']}"
        for of in conditions
    )
    lines = [
        f"Ours: trained on {trained}, after the last epoch; mean and standard deviation of"
        " the seeds, +- half of the mean's 95 % interval. flip: by the mean logits of an image and"
        f" its mirror image. s: training steps, {'; or '.join(how)}."
    ]
    lines += [f"{row.label}: {row.note}." for row in PUBLISHED if row.note]
    lines += [f"({number}) {source}" for number, source in enumerate(sources, start=1)]
    console.print(*lines, sep="\n", highlight=False)


def draw_accuracy(path: Path, found: Mapping[str, Any], *, on: str) -> None:
    """Draw accuracy in percent against parameters (log scale), ours with one standard deviation.

    Published figures without parameters are dotted lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = build_figure(found, on=on)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def build_figure(found: Mapping[str, Any], *, on: str) -> Figure:
    """Return the picture, its labels where they lie on no point and on no other label."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axis = plt.subplots(figsize=(9, 5.6), dpi=150, layout="constrained")
    axis.set_xscale("log")
    points: list[_Point] = []
    for name, of in found.items():
        text = f"{name}, {plural(of['epochs'], 'epoch')}"
        points.append((text, of["parameters"], 100 * of["accuracy_mean"], _OURS))
        bar = None if of["accuracy_sd"] is None else 100 * of["accuracy_sd"]
        axis.errorbar(*points[-1][1:3], yerr=bar, fmt="o", color=_OURS, capsize=3, zorder=4)
    for row in PUBLISHED:
        if row.parameters is None:
            axis.axhline(row.accuracy, color=_THEIRS, linestyle=":", linewidth=1)
        else:
            text = row.label + (f", {plural(row.epochs, 'epoch')}" if row.epochs else "")
            points.append((text, row.parameters, row.accuracy, _THEIRS))
            axis.plot(*points[-1][1:3], "x", color=_THEIRS, markeredgewidth=1.5, zorder=3)
    axis.margins(x=0.12, y=0.08)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("parameters")
    axis.set_ylabel(f"accuracy in percent (ours: {on}; published: test)")
    fewest, most = (end(of["seeds"] for of in found.values()) for end in (min, max))
    seeds = ("" if fewest == most else f"{fewest} to ") + plural(most, "seed")
    axis.set_title(
        f"Fashion-MNIST: accuracy against size. Blue: ours, mean of {seeds} and one standard"
        " deviation.\nGrey: published; a dotted line where no size is given.",
        loc="left",
        fontsize=_FONT + 1,
    )
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    _put_labels(figure, axis, points)
    return figure


def _short(number: float) -> str:
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number / 1e3:g}K"


def _put_labels(figure: Figure, axis: Axes, points: Sequence[_Point]) -> None:
    """Label points and lines, each at the first of its places that is free, else the freest."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # limits and layout are final from here
    room, point = axis.get_window_extent(), figure.dpi / 72
    lines = [row for row in PUBLISHED if row.parameters is None]
    heights = [axis.transData.transform((1.0, row.accuracy))[1] for row in lines]
    centres = [axis.transData.transform(place) for _, *place, _ in points]
    half = _MARKER * point
    taken = [Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half) for x, y in centres]

    def cost(box: Bbox) -> float:
        """Return the area that is not free; a dotted line is better crossed than a word."""
        covered = [Bbox.intersection(box, other) for other in taken]
        area: float = sum(both.width * both.height for both in covered if both is not None)
        inside = Bbox.intersection(box, room)
        area += box.width * box.height - (inside.width * inside.height if inside else 0.0)
        crossed = sum(box.y0 < height < box.y1 for height in heights)
        return area + 0.1 * float(crossed * box.width * box.height)

    def put(text: Annotation, places: Sequence[_Place]) -> None:
        text.set_in_layout(False)

        def at(place: _Place) -> Bbox:
            text.xy, offset = place
            text.set_position(offset)
            text.set_horizontalalignment(_ALIGN_X[(offset[0] > 0) - (offset[0] < 0)])
            text.set_verticalalignment(_ALIGN_Y[(offset[1] > 0) - (offset[1] < 0)])
            return text.get_window_extent()

        taken.append(at(min(places, key=lambda place: cost(at(place)))).padded(point))

    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": _FONT}
    for row in lines:
        text = axis.annotate(row.label, (0, 0), (0, 0), color=_THEIRS, **style)
        text.xycoords = ("axes fraction", "data")
        put(text, [((x, row.accuracy), (-1 if x else 1, y)) for x in (1, 0) for y in (2, -2)])
    for name, *place, colour in points:
        weight = "bold" if colour == _OURS else "normal"
        text = axis.annotate(name, (0, 0), (0, 0), color=colour, weight=weight, **style)
        away = [(x * far, y * far) for far in _POINTS_AWAY for x, y in _SIDES]
        put(text, [((place[0], place[1]), offset) for offset in away])
