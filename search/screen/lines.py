"""Lines for people: in a terminal beside what is live, or in a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.text import Text

from search.words import one_line, percent

if TYPE_CHECKING:
    from model.train import EpochMetrics

Verbosity = Literal["quiet", "normal", "verbose"]
"""`quiet`: only how it ended. `verbose`: every epoch has a line of its own."""


def say(console: Console, text: str) -> None:
    """Print one line with the time."""
    # A log may be read days later; in a terminal the hour is enough.
    now = time.strftime("%H:%M:%S" if console.is_terminal else "%Y-%m-%d %H:%M:%S")
    console.print(Text(f"{now} {one_line(text)}"), soft_wrap=True)


def numbers(metrics: EpochMetrics, epochs: int) -> str:
    """Return what an epoch of `epochs` has shown."""
    text = f"epoch {metrics.epoch}/{epochs}: "
    if metrics.val_accuracy is not None and metrics.val_loss is not None:
        text += f"validation {percent(metrics.val_accuracy)}, loss {metrics.val_loss:.4f}; "
    text += f"training {percent(metrics.train_accuracy)}, loss {metrics.train_loss:.4f}; "
    return f"{text}{metrics.images_per_second:,.0f} images/s"
