"""How the report writes numbers, times and other people's words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from model.markdown import plain as plain


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share in percent: 0.91236 -> 91.24%; a dash for nothing."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def points(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return a share in points without a unit: 0.0041 -> 0.41, or +0.41; a dash for nothing."""
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 2) -> str:
    """Return an interval in percent: 90.65 to 91.80%."""
    if bounds is None:
        return "-"
    return f"{100 * bounds[0]:.{digits}f} to {100 * bounds[1]:.{digits}f}%"


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart: 72,666."""
    return "-" if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Return a large number in three digits: 3154816 -> 3.15 M."""
    if value is None:
        return "-"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter: 3905 -> 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def when(at: float) -> str:
    """Return a Unix time as a date and time, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


FILTERS = {
    "percent": percent,
    "points": points,
    "interval": interval,
    "count": count,
    "short": short,
    "duration": duration,
    "when": when,
    "plain": plain,
}
"""By the names that the templates use."""
