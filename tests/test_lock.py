"""Who works on a study, and on what kind of disk."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from search.machine.slots import CHECKOUT
from search.record.filesystem import network_filesystem, network_warning
from search.record.lock import hold, is_alive
from search.record.storage import close_storage, engine_of
from search.record.study import Study, StudyError, open_study

MakeStudy = Callable[..., Study]
HOLDER = """
import os, platform, sys, time
from pathlib import Path
from search.record.lock import hold
from search.record.study import open_study

study = open_study(Path(sys.argv[1]))
with hold(study):
    study.sessions.start("search", host=platform.node(), pid=os.getpid())
    study.record.start_attempt(0, from_epoch=0)
    print("held", flush=True)
    time.sleep(600)
"""
Partition = namedtuple("Partition", ("device", "mountpoint", "fstype", "opts"))


def test_a_study_is_held_by_one_process_until_it_is_killed(make_study: MakeStudy) -> None:
    study = make_study()
    command = [sys.executable, "-c", HOLDER, str(study.folder)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            who = rf"process {holder.pid} on {platform.node()} since 20[-\d]+ [:\d]+"
            message = rf"^small is being worked on by {who}; wait for it, or `stop small`$"
            with pytest.raises(StudyError, match=message), hold(study):
                pass
            assert is_alive(study)
            assert len(study.record.attempts()) == 1  # to be refused closes nothing
        finally:
            holder.kill()
    assert not is_alive(study)
    with hold(study):  # the lock died with its holder; what it wrote is there
        assert [session["ended_at"] for session in study.sessions.all()] == [None]
        study.record.close_attempts("the driver ended before it")
    assert [row["outcome"] for row in open_study(study.folder).record.attempts()] == ["stopped"]


def test_a_study_is_free_after_it_was_held(make_study: MakeStudy) -> None:
    study = make_study()
    for _ in range(2):
        with hold(study), pytest.raises(StudyError, match="being worked on"), hold(study):
            pass


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ext4", ""),
        ("apfs", ""),
        ("fuseblk", ""),
        ("overlay", ""),
        ("fuse.portal", ""),
        ("nfs4", "nfs4"),
        ("cifs", "cifs"),
        ("fuse.sshfs", "fuse.sshfs"),
        ("fuse.s3fs", "fuse.s3fs"),
        ("smbfs", "smbfs"),
        ("lustre", "lustre"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    inner, other = str(tmp_path / "disk"), "ext4" if expected else "nfs"
    table = [("/", other), (inner, other), (inner, kind), (f"{inner}-2", other), ("/far", other)]
    mounts = [Partition("device", place, fstype, "rw") for place, fstype in table]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    # What is not made yet, and a link, lie where they lead to.
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "runs")
    for folder in ("disk", "disk/runs", "disk/runs/new/study", "link"):
        assert network_filesystem(tmp_path / folder) == expected
    outside = "" if expected else "nfs"
    assert network_filesystem(Path("/far/away")) == network_filesystem(tmp_path) == outside


def test_nothing_is_said_of_a_disk_of_this_machine(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    assert network_warning(small_disk(1 << 20)) == ""


def test_a_network_file_system_is_warned_of_and_has_no_shared_memory(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make_study("here")
    close_storage(engine_of(here.optuna))
    assert network_warning(here.folder) == ""
    mounts = [Partition("server:/runs", "/", "nfs4", "rw")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    warning = network_warning(here.folder)
    assert warning.startswith(f"{here.folder} is on a network file system (nfs4), where SQLite")
    assert warning.endswith("give --runs a local disk, or set storage: postgresql://...")
    # Also of a study that was made elsewhere and copied here.
    for study in (make_study("there"), open_study(here.folder)):
        study.record.add_event("proposed", 0)
        (mode,) = _pragma(study, "journal_mode")
        (synchronous,) = _pragma(study, "synchronous")
        assert (mode, synchronous) == ("delete", 2)
        assert len(open_study(study.folder).record.events()) == 1
    assert not list(here.folder.parent.rglob("study.db-*"))


def _pragma(study: Study, name: str) -> list[object]:
    with engine_of(study.optuna).connect() as connection:
        return list(connection.exec_driver_sql(f"PRAGMA {name}").scalars())
