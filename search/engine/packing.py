"""A study on its way home: packed on the head, where the log service of Ray gives it away.

Ray serves the files among a node's logs, to whoever has the cluster's token: no other port, no ssh.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import signal
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from data.one_line import one_line
from search.study_error import StudyError

_WAIT_SECONDS = 900.0
_LEFT_BEHIND = {".lock", ".stop", "study.db", "study.db-wal", "study.db-shm", "ray-logs"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A packed study."""

    node: str
    """Ray's id of the node that it lies on."""
    name: str
    """Of the file, among that node's logs."""
    size: int
    """Bytes."""
    sha256: str


def hand_out(folder: Path, *, checkpoints: bool, say: Callable[[str], None]) -> None:
    """Pack a study, say where it lies (JSON, one line), and keep it until this process is ended.

    Args:
        folder: Of the study, on a machine of a cluster.
        checkpoints: With those of its trials.
        say: Is told the line.

    Raises:
        StudyError: There is no study.
    """
    if not (folder / "config.yaml").is_file():
        raise StudyError(f"there is no study {folder}")
    node, logs = _where()
    path = logs / f"fashion-search-{folder.name}-{secrets.token_hex(4)}.tar.gz"
    with _until_ended():
        try:
            pack(folder, path, checkpoints=checkpoints)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            parcel = Parcel(node=node, name=path.name, size=path.stat().st_size, sha256=digest)
            say(json.dumps(asdict(parcel)))
            time.sleep(_WAIT_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            path.unlink(missing_ok=True)


def pack(folder: Path, path: Path, *, checkpoints: bool) -> None:
    """Write a study's folder as a compressed tar archive; its database as it is at one moment."""
    with tarfile.open(path, "w:gz", compresslevel=3) as archive, TemporaryDirectory() as place:
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            if not file.is_file() or file.is_symlink() or inside.parts[0] in _LEFT_BEHIND:
                continue
            weights = inside.parts[0] == "trials" and file.suffix in (".safetensors", ".part")
            if weights and not checkpoints:
                continue
            try:
                archive.add(file, arcname=str(inside))
            except FileNotFoundError:  # replaced, or deleted, by the driver just now
                continue
        if (folder / "study.db").is_file():
            copy = Path(place) / "study.db"
            with (
                closing(sqlite3.connect(folder / "study.db")) as live,
                closing(sqlite3.connect(copy)) as still,
            ):
                live.backup(still)
            archive.add(copy, arcname="study.db")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a study into a folder that is empty; nothing outside of it is touched.

    Raises:
        StudyError: It is no such archive, or holds what is no plain file of a study.
    """
    try:
        with tarfile.open(archive, "r:gz") as content:
            content.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise StudyError(f"what came is no study: {one_line(str(error))}; try again") from None


def _where() -> tuple[str, Path]:
    import ray
    from ray._private import worker

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    node = worker._global_node
    assert node is not None
    return str(ray.get_runtime_context().get_node_id()), Path(node.get_logs_dir_path())


@contextmanager
def _until_ended() -> Iterator[None]:
    """Have SIGTERM, which ends a job, raise KeyboardInterrupt in the block."""

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
