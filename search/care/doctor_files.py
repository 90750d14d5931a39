"""Are the files of a study in order: checkpoints, final models, the export, what was left over?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.filesize import decimal

from data.memory import available_memory
from model.config import Configuration
from model.tensor_file import CheckpointError, read_tensors
from search.care.diagnosis import Found
from search.care.gc import waste_of
from search.config.config_file import load_config
from search.drive.checkpoints import discard
from search.drive.extend import write_config
from search.drive.shelf import Shelf, ShelfError, shelf_of
from search.engine.ray_root import sweep
from search.final.training import sha256
from search.record.study import Study, StudyError, Trial
from search.screen.result import final_metrics
from search.words import one_line

_MUCH = 1_000_000  # bytes that `gc` would free, from which on it is worth a word
_LOCK, _REQUEST = ".lock", ".stop"


def trial_files(study: Study, going: Mapping[int, Trial]) -> Iterator[Found]:
    """Yield what is wrong with checkpoints, and what a killed process left half written.

    Args:
        study: Whose record is in order, and that nobody works on.
        going: Its trials that can go on, by number.
    """
    shelf = shelf_of(study)
    words = {"half written": "was never finished", "of no trial": "is of no trial"}
    try:
        for trial in going.values():
            yield from _checkpoints(study, shelf, trial)
        for waste in waste_of(study):
            if waste.kind in words:
                what = f"{_inside(study, waste.path)} {words[waste.kind]} ({decimal(waste.size)})"
                yield Found(what=what, how="it is removed", cure=waste.free)
    except ShelfError as error:
        yield Found(what=str(error), how="mend that first: the study cannot go on without")


def leftovers(study: Study) -> Iterator[Found]:
    """Yield what drivers that are gone left beside the record."""
    request = study.folder / _REQUEST
    if request.exists():
        what = f"{_REQUEST} asks a driver to stop, but none is at work"
        yield Found(what=what, how="it is removed", cure=partial(discard, request))
    for root in sweep(dry_run=True):
        busy = f", {root.processes} of its processes live" if root.processes else ""
        what = f"{root.folder} is of a driver that was killed ({decimal(root.bytes)}{busy})"
        yield Found(what=what, how="its processes are ended, and it is removed", cure=sweep)


def lock_of(folder: Path) -> Iterator[Found]:
    """Yield what keeps a study from being locked."""
    lock = folder / _LOCK
    if lock.is_dir():
        empty = not any(lock.iterdir())
        how = "it is removed" if empty else f"see what is in it, and remove it: {lock}"
        what = f"{_LOCK} is a folder, and must be a file"
        yield Found(what=what, how=how, cure=lock.rmdir if empty else None)


def outcome_files(study: Study) -> Iterator[Found]:
    """Yield what is wrong with the study's file, the final models, the result and the export."""
    path = study.folder / "config.yaml"
    if load_config(path) != study.config:
        what = "config.yaml does not say what the study was extended to"
        yield Found(what=what, how="it says so", cure=partial(write_config, study, study.config))
    yield from _final(study)
    yield from _result(study)
    yield from _export(study)


def much_waste(study: Study) -> Iterator[str]:
    """Yield a line on the checkpoints that nobody needs, if they are worth it."""
    try:
        size = sum(waste.size for waste in waste_of(study) if waste.kind == "checkpoints")
    except ShelfError:
        return  # told already
    if size > _MUCH:
        yield (
            f"checkpoints that nobody needs take {decimal(size)}; free them with:"
            f" python -m search gc {study.name}"
        )


def _checkpoints(study: Study, shelf: Shelf, trial: Trial) -> Iterator[Found]:
    useless: list[tuple[int, str]] = []
    sound = 0
    for epoch in shelf.sizes(trial.number):
        name = _inside(study, shelf.name(trial.number, epoch))
        try:
            why = _why_useless(shelf, trial, epoch)
        except OSError as error:
            what = f"{name} cannot be read: {error.strerror or error}"
            yield Found(what=what, how="see who owns it, and whether its disk is in order")
            return
        if why:
            useless.append((epoch, f"{name} {why}"))
        sound = sound or (0 if why else epoch)
    place = f"goes on from epoch {sound}" if sound else "starts again from its first epoch"
    for epoch, what in useless:
        how = f"it is removed, and {trial.name} {place}"
        yield Found(what=what, how=how, cure=partial(shelf.discard, trial.number, epoch))


def _why_useless(shelf: Shelf, trial: Trial, epoch: int) -> str:
    """Return why a trial cannot go on from a checkpoint, as its worker would see it, or nothing.

    Raises:
        OSError: It cannot be read now; whether it is sound is not known.
        ShelfError: The same, of a store.
    """
    with shelf.reading(trial.number, epoch) as path:
        if path.is_dir():
            return "is a folder"
        if path.stat().st_size > available_memory():
            raise OSError("it is larger than the memory that is free")
        try:
            header, _ = read_tensors(path)
            written = Configuration.from_dict(header["configuration"])
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            return f"is damaged ({one_line(str(error)).removeprefix(f'{path} ')})"
        except (LookupError, TypeError, ValueError):
            return "is no checkpoint of this version"
    ours = Configuration.from_dict(trial.configuration or {})
    if (header["kind"], header.get("epoch"), written) != ("checkpoint", epoch, ours):
        return "is of another training"
    return ""


def _final(study: Study) -> Iterator[Found]:
    folder, again = (
        study.folder / "final",
        f"train them again: python -m search retrain {study.name}",
    )
    expected = study.noted("state") in ("retrained", "finished")
    if not expected and not (folder / "metrics.json").exists():
        return
    try:
        metrics = final_metrics(study)
        hashes = {str(row["name"]): str(row["model_sha256"]) for row in metrics.get("models", [])}
    except StudyError as error:
        what = f"final/metrics.json is not what was written ({one_line(str(error.__cause__))})"
        yield Found(what=what, how=f"put a copy of final/ back, or {again}")
        return
    if not hashes:
        yield Found(what="final/metrics.json is gone", how=f"put a copy of final/ back, or {again}")
    for name, expected_hash in hashes.items():
        path = folder / name / "model.safetensors"
        if sha256(path) != expected_hash:
            wrong = "is not the model that was trained (SHA-256)" if path.is_file() else "is gone"
            how = f"put a copy back, or {again}"
            yield Found(what=f"{_inside(study, path)} {wrong}", how=how)


def _result(study: Study) -> Iterator[Found]:
    how = f"make it again: python -m search report {study.name}"
    for name in ("result.json", "report.html", "report.md"):
        path = study.folder / name
        if not path.is_file():
            if study.noted("state") == "finished":
                yield Found(what=f"{name} is gone", how=how)
        elif name == "result.json":
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                yield Found(what=f"{name} cannot be read: {one_line(str(error))}", how=how)


def _export(study: Study) -> Iterator[Found]:
    folder, how = study.folder / "export", f"make it again: python -m search export {study.name}"
    if not folder.exists() and not study.noted("exported"):
        return
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not what was written"
        yield Found(what=f"export/SHA256SUMS cannot be read: {one_line(str(why))}", how=how)
        return
    wrong = [name for name, digest in sums.items() if sha256(folder / name) != digest]
    for name in wrong:
        is_there = "is not the file that was written" if (folder / name).is_file() else "is gone"
        yield Found(what=f"export/{one_line(name)} {is_there}", how=how)


def _inside(study: Study, path: Path | str) -> str:
    """Return a path as seen from the study's folder; an address in a store as it is."""
    return one_line(str(path).removeprefix(f"{study.folder}/"))
