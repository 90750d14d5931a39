"""Small studies for tests of `doctor`: searched without training, with all files a search has."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from simulated_search import FACTS, search_on

from data.images import ImageShape
from model.checkpoint import save_checkpoint, save_model
from model.config import Configuration
from model.train import Training
from search.care.diagnosis import Diagnosis
from search.config.config import StudyConfig
from search.drive.checkpoints import checkpoint_path
from search.explain.verify import verify
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.record.final_metrics import write_metrics
from search.record.study import Study, Trial, best_of, create, open_study

SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)
EPOCHS = 33
"""Trained when a search is interrupted. Then t0002 is complete, t0012 in flight after epoch 5 of 9,
and all others are paused: t0004 after epoch 3."""


def begin(folder: Path, config: StudyConfig) -> Study:
    """Make a study that nothing has happened in."""
    return create(config, folder, facts=FACTS, environment=describe_environment(CHECKOUT))


def stopped(folder: Path, config: StudyConfig) -> Study:
    """Make a study whose search was stopped in good order."""
    study = begin(folder, config)
    session = study.sessions.start("search", host=platform.node(), pid=_dead())
    search_on(study, epochs=EPOCHS)
    study.record.end_attempt(12, 1, outcome="stopped", reason="SIGTERM received")
    study.sessions.end(session)
    study.set_state("stopped")
    write_checkpoints(study, 12, (3, 4, 5))
    write_checkpoints(study, 4, (1, 3))
    return study


def killed(folder: Path, config: StudyConfig) -> Study:
    """Make a study whose driver was killed."""
    study = begin(folder, config)
    study.sessions.start("search", host=platform.node(), pid=_dead())
    study.set_state("searching")
    return search_on(study, epochs=EPOCHS)


def finished(folder: Path, config: StudyConfig) -> Study:
    """Make a study with all that `run` leaves behind, though its models are not trained."""
    study = begin(folder, config)
    session = study.sessions.start("search", host=platform.node(), pid=_dead())
    search_on(study)
    study.sessions.end(session)
    best = best_of(study.trials())
    assert best is not None
    rows = []
    for seed in range(2):
        name = f"winner-s{seed}"
        path = folder / "final" / name / "model.safetensors"
        classes = FACTS["data"]["classes"]
        save_model(_training(best, seed), path, classes=classes, metrics={})
        rows.append({"name": name, "group": "winner", "model_sha256": _sha256(path)})
    metrics = {"winner_trial": best.name, "models": rows}
    write_metrics(folder / "final", metrics)
    export = folder / "export"
    export.mkdir()
    (export / "model.onnx").write_bytes(b"x" * 1000)
    (export / "labels.json").write_text("{}")
    sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(export.iterdir())]
    (export / "SHA256SUMS").write_text("".join(sums))
    study.note("exported", f"{rows[0]['model_sha256']}, 0 looks")
    for name in ("result.json", "report.html", "report.md"):
        (folder / name).write_text("{}")
    study.set_state("finished")
    return study


def write_checkpoints(study: Study, number: int, epochs: tuple[int, ...]) -> None:
    """Write checkpoints of a trial as its worker would."""
    for epoch in epochs:
        training = _training(study.trial(number), 0)
        training.epoch = epoch
        path = checkpoint_path(study.trial_folder(number), epoch)
        save_checkpoint(training, path, {"epochs": []})


def copied(source: Path, folder: Path, *statements: str) -> Path:
    """Copy a study and change its record; return the new folder."""
    shutil.copytree(source, folder)
    database = sqlite3.connect(folder / "study.db")
    with database:
        for statement in statements:
            assert database.execute(statement).rowcount > 0, f"nothing was changed: {statement}"
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return folder


def content(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, but of the memory that SQLite's readers share."""
    return {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "study.db-shm"
    }


def outcomes(folder: Path) -> list[tuple[str, float | None]]:
    """Return how every trial of a study stands."""
    return [(trial.outcome, trial.value) for trial in open_study(folder).trials()]


def goes_on_as_if_nothing_had_been(folder: Path, undisturbed: Path) -> None:
    """Search to the end, verify, and compare with the study that nothing happened to."""
    search_on(open_study(folder))
    found = verify(open_study(folder))
    assert found.difference is None, str(found)
    assert outcomes(folder) == outcomes(undisturbed)


def kinds(diagnosis: Diagnosis) -> set[str]:
    """Return what became of the findings."""
    return {finding.outcome for finding in diagnosis.findings}


def said(diagnosis: Diagnosis) -> str:
    """Return what was found, a line each."""
    return "\n".join(finding.what for finding in diagnosis.findings)


def _dead() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def _training(trial: Trial, seed: int) -> Training:
    configuration = Configuration.from_dict(trial.configuration or {})
    return Training.start(configuration, SHAPE, (0.3,), (0.3,), seed, "cpu")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
