"""Bring a study home from a cluster: download what `search.engine.packing` hands out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from search.drive.shelf import FETCHED
from search.engine.jobs import Jobs
from search.engine.packing import Parcel, unpack
from search.record.lock import hold
from search.record.study import open_study
from search.record.whole_file import replace_folder, write_json
from search.study_error import StudyError


def fetch(
    jobs: Jobs,
    study: str,
    *,
    runs: str | None,
    to: Path,
    checkpoints: bool,
    say: Callable[[str], None],
) -> Path:
    """Bring a study home, also while it is being searched; return its folder.

    Args:
        jobs: Of the cluster.
        study: Its name.
        runs: Folder of studies on the head.
        to: Folder of studies on this machine.
        checkpoints: With those of its trials.
        say: Is told, in a line, what comes.

    Raises:
        StudyError: It does not come whole, or another study is in its place; then nothing is
            changed here.
    """
    if "/" in study:
        raise StudyError(f"{study} is a folder: fetch takes the name of a study, and --runs")
    folder = to / study
    if folder.exists() and not (folder / FETCHED).is_file():
        raise StudyError(
            f"{folder} exists and did not come from a cluster; fetch to another folder, with --to"
        )
    to.mkdir(parents=True, exist_ok=True)
    part, archive = to / f".{study}.part", to / f".{study}.tar.gz"
    shutil.rmtree(part, ignore_errors=True)
    try:
        words = ["pack", study, *(["--checkpoints"] if checkpoints else [])]
        with jobs.running(words, runs) as printed:
            parcel = _parcel(printed)
            say(f"{study}: {parcel.size / 1e6:.1f} MB")
            _download(jobs, parcel, archive)
        part.mkdir()
        unpack(archive, part)
        write_json(
            part / FETCHED, {"address": _plain(jobs.address), "runs": runs, "sha256": parcel.sha256}
        )
        _replace(part, folder)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _replace(part: Path, folder: Path) -> None:
    """Put what came in the place of an older copy, unless that has been worked on."""
    if not folder.exists():
        replace_folder(part, folder)
        return
    with hold(open_study(folder)):
        new, old = (_done_on(path) for path in (part, folder))
        if not old <= new:
            raise StudyError(
                f"{folder} was worked on here since it was fetched (retrained, evaluated or"
                " searched): fetch to another folder, with --to"
            )
        replace_folder(part, folder)


def _done_on(folder: Path) -> set[tuple[str, float]]:
    """Return what was done on a study, as its record has it: stages, and looks at the test set."""
    study = open_study(folder)
    stages = {
        (f"{row['stage']} on {row['host']}", row["started_at"]) for row in study.sessions.all()
    }
    return stages | {("look", row["at"]) for row in study.record.looks()}


def _parcel(printed: Iterator[str]) -> Parcel:
    text = ""
    for more in printed:
        text += more
        for line in text.splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                return Parcel(**json.loads(line))
    raise StudyError(f"the cluster packed nothing: {text[-200:]}")


def _download(jobs: Jobs, parcel: Parcel, archive: Path) -> None:
    digest = hashlib.sha256()
    with archive.open("wb") as file:
        for block in jobs.download(parcel.node, parcel.name):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != parcel.sha256:
        raise StudyError(
            f"{archive.stat().st_size} bytes of {parcel.size} came, or others than were sent;"
            " try again"
        )


def _plain(address: str) -> str:
    """Return an address without a user's name and password, which are for nobody's file."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
