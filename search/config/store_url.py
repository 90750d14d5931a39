"""Where a study's checkpoints are, if in an object store: what a study file may say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

_FORM = "s3://BUCKET[/PREFIX] or gs://BUCKET[/PREFIX]"
_ALLOWED = f"must be {_FORM}, or null for the study's folder"
_OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("scheme", "endpoint_override")}
_USER = re.compile(r"(?<=://)[^/?#]*(?=@)")
_VALUE = re.compile(r"(?<==)[^&#]*")
_SECRET = re.compile(r"key|secret|token|password|signature|credential", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreUrl:
    """An address in an object store, taken apart."""

    scheme: str
    """`s3` or `gs`."""
    bucket: str
    prefix: str
    """Without slashes at its ends; may be empty."""
    options: dict[str, str]
    """What follows the question mark."""

    def __str__(self) -> str:
        """Return the address without options."""
        return f"{self.scheme}://{self.path}"

    @property
    def path(self) -> str:
        """Return bucket and prefix, as a file system of pyarrow takes them."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


def parse_store_url(url: str) -> StoreUrl:
    """Take an address apart.

    Raises:
        ValueError: It names no place in a store known here, or says a secret; one line that shows
            no secret.
    """
    shown = _VALUE.sub("...", _USER.sub("...", url))
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{shown!r} is no address ({error}); it {_ALLOWED}") from None
    try:
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        shown = shown.partition("?")[0]
        raise ValueError(f"{shown!r} has options that are not NAME=VALUE; it {_ALLOWED}") from None
    if parts.scheme not in _OPTIONS:
        raise ValueError(f"{shown!r} is in no store known here; it {_ALLOWED}")
    secrets = sorted(name for name in options if _SECRET.search(name))
    if "@" in parts.netloc or secrets:
        raise ValueError(
            f"{shown!r} says who may enter, but a study's folder holds no secret: leave that out,"
            " and set it in the environment of every node (AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    known = _OPTIONS[parts.scheme]
    for name in options:
        if name not in known:
            raise ValueError(f"{shown!r} has an unknown option {name!r}; known: {', '.join(known)}")
    prefix = parts.path.strip("/")
    odd = any(name in ("", ".", "..") for name in prefix.split("/")) and prefix
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", parts.netloc) or odd or parts.fragment:
        raise ValueError(f"{shown!r} names no bucket and prefix; it {_ALLOWED}")
    return StoreUrl(scheme=parts.scheme, bucket=parts.netloc, prefix=prefix, options=options)
