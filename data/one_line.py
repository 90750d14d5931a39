"""Say things to people in one line: without line breaks or control codes, and not without end."""

from __future__ import annotations

import unicodedata

_MOST = 500  # characters of an error: what was given may itself be long
_HEAD = 320  # where, and what was given; the rest goes to what is allowed and what to do


def one_line(text: str) -> str:
    """Return a text without line breaks, control codes and halves of characters."""
    # A lone surrogate stands for a byte of a file name that is no UTF-8, and cannot be printed.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_text(name: str) -> bool:
    """Return whether a file's name can be shown and written: no control codes, all of it UTF-8."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


class OneLineError(Exception):
    """What people are told instead of a traceback: one line of at most 500 characters."""

    def __init__(self, message: str) -> None:
        """Take the line; control codes in it become blanks, and of a long one the middle goes."""
        line = one_line(message)
        if len(line) > _MOST:
            line = f"{line[:_HEAD]} ... {line[_HEAD + 5 - _MOST :]}"
        super().__init__(line)
