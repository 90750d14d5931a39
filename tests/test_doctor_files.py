"""What is wrong with the files of a study is named; what can be mended is, and no more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sick_study import content, copied, kinds, said, write_checkpoints

from search.care.doctor import examine
from search.drive.checkpoints import found
from search.record.study import open_study

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("elsewhere")]

Damage = Callable[[Path], object]


def changed(name: str) -> Damage:
    """Return what changes one byte in the middle of a file."""

    def change(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        (folder / name).write_bytes(raw)

    return change


def cut_short(name: str) -> Damage:
    """Return what cuts the second half of a file off."""

    def cut(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: len(raw) // 2])

    return cut


def written(name: str, text: str = "x") -> Damage:
    """Return what writes a file."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


def gone(name: str) -> Damage:
    """Return what removes a file or a folder."""

    def remove(folder: Path) -> None:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink()

    return remove


def of_another_trial(folder: Path) -> None:
    trials = folder / "trials"
    shutil.copy(trials / "t0012/e0003.safetensors", trials / "t0004/e0003.safetensors")


def of_another_epoch(folder: Path) -> None:
    trials = folder / "trials"
    shutil.copy(trials / "t0012/e0003.safetensors", trials / "t0012/e0005.safetensors")


def all_damaged(folder: Path) -> None:
    for epoch in (3, 4, 5):
        cut_short(f"trials/t0012/e000{epoch}.safetensors")(folder)


def a_folder_for_a_checkpoint(folder: Path) -> None:
    (folder / "trials/t0012/e0006.safetensors").mkdir()


def a_link_to_itself(folder: Path) -> None:
    (folder / "trials/t0012/e0006.safetensors").symlink_to("e0006.safetensors")


def a_folder_for_the_lock(folder: Path) -> None:
    (folder / ".lock").mkdir()


def a_temporary_file(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    written(f".report.html.{dead.pid}.tmp")(folder)


def a_root_of_ray(folder: Path) -> None:
    written("elsewhere/fashion-search-a1b2c3/driver.lock", "")(folder.parent)


NEWEST = "trials/t0012/e0005.safetensors"
CURABLE: dict[str, tuple[Damage, str, str]] = {
    "a changed checkpoint": (changed(NEWEST), f"{NEWEST} is damaged", "t0012 goes on from epoch 4"),
    "half a checkpoint": (cut_short(NEWEST), f"{NEWEST} is damaged", "t0012 goes on from epoch 4"),
    "half an older one": (
        cut_short("trials/t0012/e0003.safetensors"),
        "trials/t0012/e0003.safetensors is damaged",
        "t0012 goes on from epoch 5",
    ),
    "all checkpoints": (all_damaged, f"{NEWEST} is damaged", "t0012 starts again from its first"),
    "of a trial that waits": (
        changed("trials/t0004/e0003.safetensors"),
        "trials/t0004/e0003.safetensors is damaged",
        "t0004 goes on from epoch 1",
    ),
    "no checkpoint": (written(NEWEST), f"{NEWEST} is damaged (is not a whole", "from epoch 4"),
    "a folder for one": (
        a_folder_for_a_checkpoint,
        "trials/t0012/e0006.safetensors is a folder",
        "t0012 goes on from epoch 5",
    ),
    "of another trial": (
        of_another_trial,
        "trials/t0004/e0003.safetensors is of another training",
        "t0004 goes on from epoch 1",
    ),
    "of another epoch": (of_another_epoch, f"{NEWEST} is of another training", "from epoch 4"),
    "a half-written one": (
        written(f"trials/t0012/.e0006.safetensors.{'a' * 32}.part"),
        ".part was never finished (1 byte)",
        "it is removed",
    ),
    "a folder of no trial": (
        written("trials/t0099/e0001.safetensors"),
        "trials/t0099 is of no trial",
        "it is removed",
    ),
    "half a retraining": (
        written("final.part/winner-s0/model.safetensors"),
        "final.part was never finished",
        "it is removed",
    ),
    "half an export": (written("export.part/model.onnx"), "export.part was never", "is removed"),
    "half a report": (a_temporary_file, ".tmp was never finished", "it is removed"),
    "a request": (
        written(".stop", "now"),
        ".stop asks a driver to stop, but none is",
        "is removed",
    ),
    "a lock": (a_folder_for_the_lock, ".lock is a folder", "it is removed"),
    "what a killed driver left": (a_root_of_ray, "is of a driver that was killed", "is removed"),
}


@pytest.mark.parametrize("what", CURABLE)
def test_what_can_be_mended_is_named_and_mended(
    what: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    damage, wrong, how = CURABLE[what]
    healthy = copied(patients["stopped"], tmp_path / "healthy")
    folder = copied(patients["stopped"], tmp_path / "sick")
    damage(folder)
    before, damaged = content(tmp_path), content(folder)
    seen = examine(folder, check=True)
    assert content(tmp_path) == before
    assert kinds(seen) == {"can be mended"}, str(seen)
    assert wrong in said(seen), str(seen)
    assert how in seen.findings[0].how
    mended = examine(folder, check=False)
    assert (said(mended), kinds(mended)) == (said(seen), {"mended"}), str(mended)
    assert examine(folder, check=True).findings == ()
    left, known = content(folder), content(healthy)
    lost = {name for name, digest in known.items() if damaged[name] != digest}
    del left[".lock"]
    assert left == {name: digest for name, digest in known.items() if name not in lost}
    assert len(lost) == sum(name in said(seen) for name in known)


MODEL = "put a copy back, or train them again: python -m search retrain sick"
FINAL = "put a copy of final/ back, or train them again: python -m search retrain sick"
REPORT, EXPORT = (f"make it again: python -m search {what} sick" for what in ("report", "export"))
INCURABLE: dict[str, tuple[str, Damage, str, str]] = {
    "the lock": (
        "stopped",
        written(".lock/mine"),
        ".lock is a folder, and must be a file",
        "see what is in it, and remove it: ",
    ),
    "a checkpoint": (
        "stopped",
        a_link_to_itself,
        "trials/t0012/e0006.safetensors cannot be read: Too many levels of symbolic links",
        "see who owns it, and whether its disk is in order",
    ),
    "a final model": (
        "finished",
        changed("final/winner-s1/model.safetensors"),
        "final/winner-s1/model.safetensors is not the model that was trained (SHA-256)",
        MODEL,
    ),
    "no final model": (
        "finished",
        gone("final/winner-s0/model.safetensors"),
        "final/winner-s0/model.safetensors is gone",
        MODEL,
    ),
    "half the metrics": (
        "finished",
        cut_short("final/metrics.json"),
        "final/metrics.json is not what was written (",
        FINAL,
    ),
    "other metrics": (
        "finished",
        written("final/metrics.json", '{"models": [{"name": "winner-s0"}]}'),
        "final/metrics.json is not what was written (its SHA-256 does not match)",
        FINAL,
    ),
    "no final models": ("finished", gone("final"), "final/metrics.json is gone", FINAL),
    "half a result": (
        "finished",
        written("result.json", '{"trials": '),
        "result.json cannot be read: ",
        REPORT,
    ),
    "no result": ("finished", gone("result.json"), "result.json is gone", REPORT),
    "no report": ("finished", gone("report.html"), "report.html is gone", REPORT),
    "an exported file": (
        "finished",
        changed("export/model.onnx"),
        "export/model.onnx is not the file that was written",
        EXPORT,
    ),
    "no exported file": (
        "finished",
        gone("export/labels.json"),
        "export/labels.json is gone",
        EXPORT,
    ),
    "the sums": (
        "finished",
        written("export/SHA256SUMS", "none"),
        "export/SHA256SUMS cannot be read: it is not what was written",
        EXPORT,
    ),
    "no export": (
        "finished",
        gone("export"),
        "export/SHA256SUMS cannot be read: No such file or directory",
        EXPORT,
    ),
}


@pytest.mark.parametrize("what", INCURABLE)
def test_what_cannot_be_mended_is_named_with_what_to_do(
    what: str, patients: dict[str, Path], tmp_path: Path
) -> None:
    name, damage, wrong, how = INCURABLE[what]
    folder = copied(patients[name], tmp_path / "sick")
    damage(folder)
    before = content(folder)
    for check in (True, False):
        found = examine(folder, check=check)
        (finding,) = found.findings
        assert finding.what.startswith(wrong), finding
        assert finding.how.startswith(how), finding
        assert (finding.outcome, found.is_well) == ("cannot be mended", False)
        after = content(folder)
        after.pop(".lock", None)
        assert after == before
    assert (
        a_link_to_itself is not damage or (folder / "trials/t0012/e0006.safetensors").is_symlink()
    )


def test_files_of_trials_that_have_ended_are_only_mentioned_where_they_are_large(
    patients: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(patients["finished"], tmp_path / "sick")
    study = open_study(folder)
    write_checkpoints(study, 2, (1, 2, 3))
    assert examine(folder, check=False).notes == ()
    for epoch, path in found(study.trial_folder(2)):
        path.write_bytes(b"x" * 400_000 * epoch)
    seen = examine(folder, check=False)
    assert (seen.findings, seen.is_well) == ((), True)
    assert (
        "checkpoints that nobody needs take 2.4 MB; free them with: python -m search gc sick"
        in (str(seen).splitlines())
    )
    assert json.loads(json.dumps(seen.to_dict()))["notes"] == [*seen.notes]
    assert len(found(study.trial_folder(2))) == 3
