"""Tables and shares in the Markdown of a model card."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; whatever the cells hold, each row has as many as the header."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(plain(cell) for cell in line)} |\n" for line in lines)


def plain(text: str) -> str:
    """Keep a name from being read as Markdown's table bars or as a new line."""
    return " ".join(text.split()).replace("|", "\\|")


def share(value: float, interval: Sequence[float]) -> str:
    """Return a share with its interval: `92.90% (92.38% to 93.39%)`."""
    return f"{value:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"
