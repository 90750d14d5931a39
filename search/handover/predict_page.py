"""What a model says of images, for a terminal, and line by line for everything else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data.one_line import one_line
from search.handover.predict import Prediction
from search.words import plural

MOST_SHOWN = 40
"""Images in a terminal; of more, only the first and how often each class was the answer."""
_BAR = 10  # characters
_WIDE = 60  # characters: a terminal that has room for bars
_EIGHTHS = " ▏▎▍▌▋▊▉"


def predict_page(predictions: Sequence[Prediction], width: int) -> RenderableType:
    """Return the predictions as tables for a terminal of `width` characters."""
    shown = predictions if len(predictions) <= MOST_SHOWN else predictions[: MOST_SHOWN // 2]
    bars = ("",) if width >= _WIDE else ()
    table = Table("image", "label", "share", *bars, box=None, pad_edge=False, header_style="dim")
    longest = max(len(name) for row in shown for name in row.labels)
    room = max(12, width - longest - len("100.0 %") - (_BAR + 2 if bars else 0) - 6)
    for prediction in shown:
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        for rank, (label, probability) in enumerate(pairs):
            source = _cut(_place(prediction.source), room) if rank == 0 else ""
            style = "bold" if rank == 0 else "dim"
            cells = [
                Text(source),
                Text(label, style, no_wrap=True),
                Text(f"{100 * probability:.1f} %", style, justify="right", no_wrap=True),
                Text(_bar(probability), "green" if rank == 0 else "dim", no_wrap=True),
            ]
            table.add_row(*cells[: len(table.columns)])
    if len(shown) == len(predictions):
        return table
    rest = f"... and {plural(len(predictions) - len(shown), 'more image')}; all of them: --json"
    return Group(table, Text(rest, "dim"), Text(), _counts(predictions))


def predict_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield a line for each image: where it is from, then labels with probabilities, by tabs."""
    for row in predictions:
        pairs = zip(row.labels, row.probabilities, strict=True)
        cells = [f"{one_line(name)}\t{probability:.4f}" for name, probability in pairs]
        yield "\t".join([one_line(_place(row.source)), *cells])


def _counts(predictions: Sequence[Prediction]) -> Table:
    counted = Counter(row.labels[0] for row in predictions).most_common()
    table = Table("label", "images", "", box=None, pad_edge=False, header_style="dim")
    for name, count in counted:
        table.add_row(
            Text(name), Text(f"{count:,}", justify="right"), Text(_bar(count / len(predictions)))
        )
    return table


def _bar(share: float) -> str:
    whole, rest = divmod(round(share * _BAR * 8), 8)
    return "█" * whole + _EIGHTHS[rest].strip()


def _place(source: str) -> str:
    """Return a file's name as one would type it here, if that is shorter."""
    near = os.path.relpath(source, Path.cwd()) if source.startswith("/") else source
    return min(source, near, key=len)


def _cut(text: str, most: int) -> str:
    """Keep the end of a long name: there are the file and its number."""
    text = one_line(text)
    return text if len(text) <= most else f"...{text[3 - most :]}"
