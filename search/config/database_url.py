"""Where a study's database is, if not in its folder: what a study file may say of it."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

_FORM = "postgresql://[USER@]HOST[:PORT]/DATABASE"
_SECRET = re.compile(r"(?<=:)[^/@]*(?=@)|(?<=password=)[^&]*")


def check_url(url: str) -> None:
    """Raise ValueError if `url` names no PostgreSQL database, or says a password."""
    shown = _SECRET.sub("...", url)
    allowed = f"must be {_FORM}, or null for a file in the study's folder"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - a property that raises
    except ValueError as error:
        raise ValueError(f"{shown!r} is no address of a database ({error}); it {allowed}") from None
    if parts.scheme != "postgresql":
        raise ValueError(f"{shown!r} is of no database known here; it {allowed}")
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError(
            f"{shown!r} says a password, but a study's folder holds no secret: leave it out, and"
            " set PGPASSWORD or write it into ~/.pgpass"
        )
    if not parts.path.strip("/") or "/" in parts.path[1:]:
        raise ValueError(f"{shown!r} names no database; it {allowed}")
