"""Free the disk, or a store, of what no study needs; a study that is worked on is left alone.

Checkpoints beyond what `search.drive.holdings` keeps, what a killed process left half written,
folders of trials that the record does not know, what killed drivers left in the temporary folder.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from search.drive.checkpoints import discard, parts
from search.drive.holdings import choose, holdings_of
from search.drive.shelf import shelf_of
from search.engine.ray_root import sweep
from search.record.lock import hold
from search.record.study import Study, StudyError, open_study
from search.screen.screen import columns
from search.words import one_line, plural

Kind = Literal["checkpoints", "half written", "of no trial", "temporary"]
"""`temporary`: files of Ray that a killed driver left."""
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # of `write_text`: the process is in the name
_TRIAL = re.compile(r"t(\d{4,})")
_EXPORT = re.compile(r"\.export(\.part)?\.[0-9a-f]{32}\.part")  # of `export_model`
_LOOKS = (".plan-*", ".fashion-search-*")  # of a probe, of a look at nodes: for minutes
_PLAN_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Waste:
    """A file, a folder or an object that is not needed."""

    kind: Kind
    path: str
    """Or its address in a store."""
    size: int
    """In bytes, with all that is in it."""
    free: Callable[[], object] = field(compare=False)
    """Deletes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Freed:
    """What one study, or the folder of all, did not need."""

    name: str
    waste: tuple[Waste, ...] = ()
    skipped: str = ""
    """Why it was left as it is; empty where it was not."""

    @property
    def size(self) -> int:
        """Return the bytes of all waste."""
        return sum(waste.size for waste in self.waste)

    def to_dict(self) -> dict[str, Any]:
        """Return what `gc --json` prints of it."""
        freed = [{"kind": w.kind, "path": w.path, "bytes": w.size} for w in self.waste]
        return {"name": self.name, "skipped": self.skipped, "bytes": self.size, "freed": freed}


def collect(folder: Path, *, keep: int | None, dry_run: bool) -> Freed:
    """Free what one study does not need; with `dry_run`, only say what that is.

    Args:
        folder: Of the study.
        keep: Best ended trials that keep a checkpoint; None for what the study's file says.
        dry_run: Delete nothing.

    Raises:
        StudyError: There is no study that can be read, it is being worked on, or the store of its
            checkpoints does not answer.
        OSError: Something cannot be deleted.
    """
    study = open_study(folder)
    with hold(study):
        waste = tuple(waste_of(study, keep=keep))
        if not dry_run:
            _delete(waste)
    return Freed(name=study.name, waste=waste)


def collect_all(runs: Path, *, keep: int | None, dry_run: bool) -> list[Freed]:
    """Free what the studies in `runs` do not need; one that cannot be read or is held says so."""
    # First what needs no record: on a disk without any room, none can be opened.
    latest = time.time() - _PLAN_SECONDS
    looks = [path for pattern in _LOOKS for path in runs.glob(pattern)]
    old = [path for path in sorted(looks) if path.lstat().st_mtime < latest]
    plans = tuple(_of_disk("half written", path) for path in old)
    if not dry_run:
        _delete(plans)
    roots = sweep(dry_run=dry_run)
    temporary = tuple(
        # Swept already, if at all.
        Waste(kind="temporary", path=str(r.folder), size=r.bytes, free=lambda: None)
        for r in roots
    )
    found = []
    for folder in sorted(path.parent for path in runs.glob("*/config.yaml")):
        try:
            found.append(collect(folder, keep=keep, dry_run=dry_run))
        except (StudyError, OSError) as error:
            found.append(Freed(name=folder.name, skipped=one_line(str(error))))
    others = (Freed(name="plans", waste=plans), Freed(name="killed drivers", waste=temporary))
    return found + [freed for freed in others if freed.waste]


def waste_of(study: Study, *, keep: int | None = None) -> Iterator[Waste]:
    """Find what a study that nobody works on does not need; `keep` as in `collect`.

    Raises:
        ShelfError: The store of its checkpoints does not answer.
    """
    limits, shelf = study.config.checkpoints, shelf_of(study)
    there = shelf.all_sizes()
    holdings = holdings_of(study, there)
    choice = choose(
        holdings.values(),
        keep_best=limits.keep_best if keep is None else keep,
        max_bytes=None if limits.max_gb is None else limits.max_gb * 1e9,
    )
    needless: list[tuple[Kind, int, int]] = [
        ("checkpoints", *one) for one in sorted((*choice.surplus, *choice.squeezed))
    ]
    if shelf.far:  # of a folder, all that is in it goes, below
        unknown = sorted(there.keys() - holdings.keys())
        needless += [("of no trial", trial, epoch) for trial in unknown for epoch in there[trial]]
    for kind, trial, epoch in needless:
        yield Waste(
            kind=kind,
            path=shelf.name(trial, epoch),
            size=there[trial][epoch],
            free=partial(shelf.discard, trial, epoch),
        )
    folders = [path for path in sorted((study.folder / "trials").glob("t*")) if path.is_dir()]
    for folder in folders:
        match = _TRIAL.fullmatch(folder.name)
        if match and int(match[1]) not in holdings:
            yield _of_disk("of no trial", folder)
        else:
            for path in parts(folder):
                yield _of_disk("half written", path)
    for path in sorted(study.folder.iterdir()):
        match = _TEMPORARY.fullmatch(path.name)
        left = match and not psutil.pid_exists(int(match[1]))
        if left or path.name in ("final.part", "export.part") or _EXPORT.fullmatch(path.name):
            yield _of_disk("half written", path)


def freed_page(found: Sequence[Freed], *, dry_run: bool) -> RenderableType:
    """Return what was freed as a table, one line a study."""
    kinds: tuple[Kind, ...] = ("checkpoints", "half written", "of no trial", "temporary")
    titles = ("Checkpoints", "Half written", "Of no trial", "Temporary")
    total = "Can be freed" if dry_run else "Freed"
    table = columns("Study*", *(f"{title}>" for title in titles), f"{total}>")
    for freed in found:
        if not freed.skipped:
            count = Counter(waste.kind for waste in freed.waste)
            cells = [str(count[kind]) if count[kind] else "-" for kind in kinds]
            table.add_row(Text(freed.name), *cells, decimal(freed.size))
    skipped = [Text(f"{freed.name}: {freed.skipped}") for freed in found if freed.skipped]
    paths = plural(sum(len(freed.waste) for freed in found), "path")
    size = decimal(sum(freed.size for freed in found))
    text = f"{size} {'can be' if dry_run else 'were'} freed: {paths}"
    return Group(*([table] if table.row_count else []), *skipped, Text(text))


def _delete(waste: Sequence[Waste]) -> None:
    for one in waste:
        one.free()


def _of_disk(kind: Kind, path: Path) -> Waste:
    return Waste(kind=kind, path=str(path), size=_size(path), free=partial(discard, path))


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if not inner.is_dir())
    return path.lstat().st_size
