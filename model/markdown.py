"""Tables, shares and other people's words in Markdown."""

from collections.abc import Iterable, Sequence


class Code(str):
    """Text of ours that is shown as code, in a cell or elsewhere."""

    __slots__ = ()

    def __new__(cls, text: str) -> "Code":
        """Put `text` between backticks; it holds none itself."""
        return super().__new__(cls, f"`{text.replace('|', chr(92) + '|')}`")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; whatever the cells hold, each row has as many as the header.

    A cell stands for itself, see `plain`, but where it is `Code`.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def plain(text: object) -> str:
    """Return text that stands for itself in a line and in a cell: no mark-up, no HTML, no link."""
    words = " ".join(str(text).split()).replace("\\", "\\\\")
    for mark, kept in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(mark, kept)
    for mark in "|`*_[]":
        words = words.replace(mark, "\\" + mark)
    return words


def share(value: float, interval: Sequence[float]) -> str:
    """Return a share with its interval: `92.90% (92.38% to 93.39%)`."""
    return f"{value:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def _cell(text: str) -> str:
    return text if isinstance(text, Code) else plain(text)
