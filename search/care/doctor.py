"""Check a study: its database, its record, its files; mend what can be mended, and say so.

Nothing here decides what a search does: the record is completed by what the next driver does first
(`search.drive.restore`). A study that somebody works on is only looked at.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path

from search.care.diagnosis import RECORD_BACK, Cure, Diagnosis, Finding, Found, IncurableError
from search.care.doctor_database import (
    damage_of,
    log_kept,
    missing_tables,
    rebuild_indices,
    salvage,
    wrong_journal,
)
from search.care.doctor_files import leftovers, lock_of, much_waste, outcome_files, trial_files
from search.care.doctor_record import RecordCheck
from search.record.lock import hold, is_alive, who_works
from search.record.stop import is_worked_on
from search.record.storage import engine_of
from search.record.study import Study, StudyError, open_study
from search.words import one_line

_ROUNDS = 3
"""What is mended may bring something else to light; more often than this it does not."""

_UNTRUSTED = "what is in the database cannot be trusted"


def examine(folder: Path, *, check: bool) -> Diagnosis:
    """Check the study in a folder, and mend it.

    Args:
        folder: Of the study.
        check: Write nothing; only say what was found.

    Raises:
        StudyError: There is no study, or its database could not be written.
    """
    if not any((folder / name).exists() for name in ("config.yaml", "study.db", "study.id")):
        open_study(folder)  # says so
    patient = _Patient(folder, check=check)
    with ExitStack() as stack:
        if check:
            stack.enter_context(log_kept(folder))
        incomplete = patient.open(stack)
        if patient.study is not None and not incomplete:
            incomplete = patient.look()
        return patient.diagnosis(incomplete)


class _Patient:
    """One study, and what was found in it so far."""

    def __init__(self, folder: Path, *, check: bool) -> None:
        """Begin; nothing is opened yet."""
        self.study: Study | None = None
        self._folder, self._check = folder, check
        self._findings: list[Finding] = []
        self._notes: tuple[str, ...] = ()
        self._worker = ""

    def open(self, stack: ExitStack) -> str:
        """Open the study, and lock it where it is to be mended; return what is in the way."""
        how = "whoever opens the study sets that right"
        mode = wrong_journal(self._folder)
        journal = Found(
            what=f"study.db keeps its journal in the mode {mode}", how=how, cure=_opened
        )
        if mode and self._check:
            self._findings.append(Finding.left(journal))
            return "to open the study would mend that"
        try:
            study = open_study(self._folder)
        except (StudyError, ValueError, LookupError, TypeError) as error:
            self._findings.append(Finding.left(_unopened(self._folder, error)))
            return "the study cannot be opened"
        stack.callback(engine_of(study.optuna).dispose)
        if mode:
            self._findings.append(Finding.mended(journal))
        for found in lock_of(self._folder):
            if found.cure is None or self._check:
                self._check = True  # without a lock nobody is kept away
                self._findings.append(Finding.left(found))
            else:
                found.cure()
                self._findings.append(Finding.mended(found))
        self._worker = _worker(study)
        if not self._worker and not self._check:
            stack.enter_context(hold(study))
        self.study = study
        return ""

    def look(self) -> str:
        """Look at database, record and files; return why some of it was left out, if it was."""
        assert self.study is not None
        mends = not (self._check or self._worker)
        damage, of_indices = damage_of(self._folder)
        if damage:
            what = f"study.db is damaged: {damage}"
            if not (of_indices and (not mends or _rebuilt(self._folder))):
                how = f"put a copy of it back; {salvage(self._folder)}"
                self._findings.append(Finding.left(Found(what=what, how=how)))
                return _UNTRUSTED
            found = Found(what=what, how="its indices are made again", cure=_opened)
            if not mends:
                self._findings.append(Finding.left(found))
                return _UNTRUSTED
            self._findings.append(Finding.mended(found))
        if missing := missing_tables(self.study):
            what = f"the database has no table {', '.join(missing)}"
            self._findings.append(Finding.left(Found(what=what, how=RECORD_BACK)))
            return "the record is not whole"
        if self._worker:
            self._findings += _lasting(self.study)
        elif self._check:
            self._findings += [Finding.left(found) for found in _look(self.study)]
        else:
            self._findings += _mend(self.study)
        if not RecordCheck(self.study).damage:
            self._notes = tuple(much_waste(self.study))
        return ""

    def diagnosis(self, incomplete: str) -> Diagnosis:
        """Return all that was found."""
        return Diagnosis(
            study=self._folder.name,
            findings=tuple(self._findings),
            worked_on_by=self._worker,
            incomplete=incomplete,
            notes=self._notes,
        )


def _look(study: Study) -> list[Found]:
    """Return all that is wrong with a study that nobody else works on."""
    record = RecordCheck(study)
    # What is left of a killed driver may still write: it comes first.
    found = [*leftovers(study), *record.findings(), *outcome_files(study)]
    if not record.damage:  # or it might not know the trials that the files are of
        found += trial_files(study, record.open)
    return found


def _lasting(study: Study) -> list[Finding]:
    """Return what is wrong with a study that somebody works on.

    What can be mended is of work that goes on, and so is what has changed at a second look.
    """
    looks = [[*RecordCheck(study).findings(), *outcome_files(study)] for _ in range(2)]
    first = {found.what for found in looks[0]}
    stays = [found for found in looks[1] if found.cure is None and found.what in first]
    return [Finding.left(found) for found in stays]


def _mend(study: Study) -> list[Finding]:
    """Mend what can be, and look again; return all that was found."""
    seen: dict[str, Found] = {}
    failed: dict[str, str] = {}
    left: dict[str, Found] = {}
    for _ in range(_ROUNDS):
        left = {found.what: found for found in _look(study)}
        new = [found for found in left.values() if found.what not in seen]
        seen |= left
        tried: dict[Cure, str] = {}
        for found in new:
            if found.cure is not None:
                if found.cure not in tried:
                    tried[found.cure] = _why_not(found.cure)
                failed[found.what] = tried[found.cure]
        if not tried:
            break
    else:
        left = {found.what: found for found in _look(study)}
    findings = []
    for what, found in seen.items():
        if what not in left:
            findings.append(Finding.mended(found))
            continue
        how = failed.get(what) or found.how
        findings.append(Finding(what=what, outcome="cannot be mended", how=how))
    return findings


def _why_not(cure: Cure) -> str:
    """Mend; return why that did not work, or an empty string."""
    try:
        cure()
    except IncurableError as error:
        return str(error)
    except OSError as error:
        return f"it could not be done: {one_line(str(error))}"
    return ""


def _unopened(folder: Path, error: Exception) -> Found:
    """Return why a study cannot be opened, and what of it could be saved."""
    if not (folder / "config.yaml").is_file():
        how = "put a copy back: nothing else holds all settings of the study"
        return Found(what="config.yaml is gone", how=how)
    if not any((folder / name).is_file() for name in ("study.db", "study.id")):
        return Found(what="study.db is gone", how=RECORD_BACK)
    if not isinstance(error, StudyError):
        why = one_line(f"{type(error).__name__}: {error}")
        return Found(what=f"the record cannot be read ({why})", how=RECORD_BACK)
    return Found(what=str(error), how=salvage(folder) if damage_of(folder)[0] else "")


def _worker(study: Study) -> str:
    """Return who works on a study, or an empty string."""
    lock = study.folder / ".lock"
    if lock.is_dir():
        return who_works(study) if is_alive(study) else ""
    if not is_worked_on(study):
        return ""
    with suppress(OSError):
        return lock.read_text(encoding="utf-8", errors="replace").strip() or who_works(study)
    return who_works(study)


def _rebuilt(folder: Path) -> bool:
    with suppress(sqlite3.Error):
        rebuild_indices(folder)
    return not damage_of(folder)[0]


def _opened() -> None:
    """Do nothing: it is mended where the database is opened."""
