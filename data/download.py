"""Fetch one file of known length and MD5 from the first mirror that serves it whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.images import DataUnavailable

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes done, bytes in total); a retry starts at 0 again."""

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """Name a published file and what it must be."""

    name: str
    """File name, the same on every mirror."""

    num_bytes: int
    """Length of the file."""

    md5: str
    """MD5 in hex, as published: it finds damage, not forgery."""

    def is_at(self, path: Path) -> bool:
        """Tell whether `path` is this file, whole and unharmed."""
        return path.is_file() and path.stat().st_size == self.num_bytes and md5(path) == self.md5


def md5(path: Path) -> str:
    """Return the MD5 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(
    remote: RemoteFile,
    directory: Path,
    *,
    mirrors: Sequence[str],
    progress: Progress | None = None,
    timeout_seconds: float = 30.0,
    num_rounds: int = 3,
    backoff_seconds: float = 1.0,
) -> Path:
    """Fetch `remote` into `directory`, trying each mirror in turn, `num_rounds` times over.

    `mirrors` are addresses that the file name is appended to. `timeout_seconds` bounds the wait for
    a connection and for each piece; the pause between rounds starts at `backoff_seconds` and
    doubles. The file appears under its name only when its checksum is right. Raises
    DataUnavailable with each mirror's last fault.
    """
    faults: dict[str, str] = {}
    for round_ in range(num_rounds):
        if round_:
            time.sleep(backoff_seconds * 2 ** (round_ - 1))
        for mirror in mirrors:
            try:
                return _fetch(remote, directory, mirror, progress, timeout_seconds)
            except _MirrorError as error:
                faults[mirror] = str(error)
    told = "; ".join(f"{mirror}: {fault}" for mirror, fault in faults.items())
    raise DataUnavailable(
        f"{remote.name}: could not be fetched in {num_rounds} rounds ({told}); check the network "
        "and try again"
    )


class _MirrorError(Exception):
    """This mirror cannot serve the file now; another one may."""


def _fetch(
    remote: RemoteFile,
    directory: Path,
    mirror: str,
    progress: Progress | None,
    timeout_seconds: float,
) -> Path:
    handle, name = tempfile.mkstemp(dir=directory, prefix=f"{remote.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in _pieces(remote, mirror, timeout_seconds):
                file.write(piece)
                if progress is not None:
                    progress(remote.name, file.tell(), remote.num_bytes)
            num_bytes = file.tell()
        if num_bytes != remote.num_bytes:
            raise _MirrorError(f"served {num_bytes} bytes, not {remote.num_bytes}")
        found = md5(temporary)
        if found != remote.md5:
            raise _MirrorError(f"served a file with MD5 {found}, not {remote.md5}")
        temporary.chmod(0o644)  # mkstemp makes it private; a cache may be shared
        return temporary.replace(directory / remote.name)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _pieces(remote: RemoteFile, mirror: str, timeout_seconds: float) -> Iterator[bytes]:
    """Yield the file's bytes as sent; a server that calls a .gz "encoded" must not be obeyed."""
    import requests
    import urllib3

    try:
        with requests.get(
            mirror + remote.name,
            headers={"Accept-Encoding": "identity"},
            stream=True,
            timeout=timeout_seconds,
        ) as response:
            if response.status_code != requests.codes.ok:
                raise _MirrorError(f"answered HTTP {response.status_code}")
            num_bytes = 0
            for piece in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                num_bytes += len(piece)
                if num_bytes > remote.num_bytes:
                    raise _MirrorError(f"served more than {remote.num_bytes} bytes")
                yield piece
    except urllib3.exceptions.ProtocolError as error:
        raise _MirrorError(f"broke off before {remote.num_bytes} bytes were served") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _MirrorError(f"could not be reached ({type(error).__name__})") from error
