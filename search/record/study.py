"""The record of a study: one folder, one database. Everything reads it; only the driver writes it.

runs/<study>/config.yaml  study.db  trials/t0007/  final/  export/  result.json  report.html

With `storage` in its configuration, the database is on a server, and instead of study.db the folder
has study.id: the study's name there, since two folders may have the same.
"""

from __future__ import annotations

import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial

from search.config.config import StudyConfig
from search.config.config_file import ConfigError, dump_config, load_config
from search.record.extension import as_extended, extensions
from search.record.lineage import Lineage
from search.record.lineage import write as write_lineage
from search.record.record import EpochRow, Record
from search.record.sessions import Sessions
from search.record.sound_trials import sound
from search.record.steps import Steps
from search.record.storage import engine_of, open_storage
from search.record.trial import Outcome as Outcome
from search.record.trial import Trial as Trial
from search.record.trial import best_of as best_of
from search.record.trial import trial_name as trial_name
from search.record.trial import trial_of as trial_of
from search.record.whole_file import write_text
from search.study_error import StorageError as StorageError
from search.study_error import StudyError as StudyError
from search.study_error import as_written, strange

State = Literal["created", "searching", "stopped", "searched", "retrained", "finished"]
"""`stopped`: the search was interrupted before its budget was spent."""
UNSEARCHED: tuple[State, ...] = ("created", "searching", "stopped")
"""Where the search has not come to its end: `resume` goes on with it."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what happens is told by our own screen

FORMAT = 3
"""Version of the study folder; another one is refused. 3: several studies in one database, kinds of
failure, several checkpoints of a trial."""

_ENDED_KNOWN = 100
"""Trials that have ended and are kept at hand for those who are told of it."""


class Study:
    """An open study."""

    def __init__(self, folder: Path, config: StudyConfig, study: optuna.Study) -> None:
        """Join a folder with its database; use `create` or `open_study`."""
        self.folder = folder
        self.optuna = study
        # Optuna's own engine: one pool of connections, one place for SQLite's settings.
        engine = engine_of(study)
        self._steps = Steps(engine)
        self.sessions = Sessions(engine, study._study_id)
        self.record = Record(engine, study._study_id, self.sessions, self._steps)
        self._known: dict[int, Trial] = {}
        self._ended: deque[int] = deque()
        """Of those that are known, in the order in which they ended."""
        self.extensions = extensions(self.record.events(kind="extended"))
        self.config = as_extended(config, self.extensions)

    @property
    def name(self) -> str:
        """Return the study's name, which is its folder's name."""
        return self.folder.name

    @property
    def state(self) -> State:
        """Return where the study stands."""
        state: State = self.noted("state") or "created"
        if state not in get_args(State):
            raise strange(self.folder, f"the study is {state!r}")
        return state

    def set_state(self, state: State) -> None:
        """Record where the study stands."""
        self.optuna.set_user_attr("state", state)

    def note(self, key: str, value: Any) -> None:
        """Record a fact about the whole study (JSON-plain), such as the data's fingerprint."""
        self.optuna.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        """Return a recorded fact, or None."""
        with as_written(self.folder):
            return self.optuna.user_attrs.get(key)

    def shown_looks(self) -> list[dict[str, Any]]:
        """Return the looks at the test set that showed a number, in order.

        Where the images could not be read a look stays on record, but is not one.
        """
        return [look for look in self.record.looks() if look["result"] is not None]

    def trial_folder(self, number: int) -> Path:
        """Return the folder of one trial's files."""
        return self.folder / "trials" / trial_name(number)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Commit what is written in the block at its end, all of it or nothing; see `Steps`."""
        try:
            with self._steps.step():
                yield
        except BaseException:  # what was not written is not known
            self._known.clear()
            self._ended.clear()
            self.record.forget()
            raise

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Return the connection to write by: that of the step, or of a transaction of its own."""
        return self._steps.writing()

    def know(self, trial: Trial) -> None:
        """Keep a trial as it is in the record now: only for the one process that writes there."""
        self._known[trial.number] = trial
        if trial.outcome != "running":
            self._ended.append(trial.number)
            if len(self._ended) > _ENDED_KNOWN:
                self._known.pop(self._ended.popleft(), None)

    def trial(self, number: int) -> Trial:
        """Return one trial."""
        if (known := self._known.get(number)) is not None:
            return known
        storage = self.optuna._storage
        key = storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)
        return trial_of(storage.get_trial(key), tuple(self.record.epochs(number)))

    def trials(self, frozen: Sequence[FrozenTrial] | None = None) -> list[Trial]:
        """Return every trial, by number; from `frozen`, where Optuna's were read just now."""
        epochs: dict[int, list[EpochRow]] = {}
        with as_written(self.folder):
            if frozen is None:
                frozen = self.optuna.get_trials(deepcopy=False)
            for row in self.record.epochs():
                epochs.setdefault(row.trial, []).append(row)
            return [trial_of(trial, tuple(epochs.get(trial.number, ()))) for trial in sound(frozen)]


def create(
    config: StudyConfig,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    environment: Mapping[str, str],
    lineage: Lineage | None = None,
) -> Study:
    """Make the folder and the database of a new study. Its configuration is settled: no `auto`.

    `lineage` is what it keeps of a parent.

    Raises:
        StudyError: The folder exists and is not empty, or cannot be made, or its database cannot.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(
            f"{folder} exists; go on with it by `resume {folder.name}`, or give another --name"
        )
    header = "".join(f"# {key}: {value}\n" for key, value in environment.items())
    name = folder.name
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        if config.storage is not None:
            name = f"{folder.name}-{secrets.token_hex(4)}"
            (folder / "study.id").write_text(f"{name}\n", encoding="utf-8")
        storage = open_storage(folder, config.storage, make=True)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        opened = Study(folder, config, study)
        opened.note("environment", dict(environment))
        for key, value in facts.items():
            opened.note(key, value)
        if lineage is not None:
            write_lineage(opened, lineage)
        opened.set_state("created")
        opened.note("format", FORMAT)
        # Last: nobody opens a study without it, and an opened database would be completed.
        write_text(folder / "config.yaml", header + dump_config(config))
    except (StorageError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was empty before
        if isinstance(error, StorageError):
            raise
        raise StudyError(f"{folder} cannot be made: {error.strerror}") from None
    return opened


def open_study(folder: Path) -> Study:
    """Open a study from its folder.

    Raises:
        StudyError: There is no study, or it was written by a newer version.
    """
    here, elsewhere = (folder / "study.db").is_file(), (folder / "study.id").is_file()
    if not (here or elsewhere):
        raise StudyError(f"{folder} holds no study (config.yaml and study.db); see `status`")
    if not (folder / "config.yaml").is_file():
        raise StudyError(
            f"{folder} has no config.yaml: put that back, as its report.html shows it, or remove"
            " the folder if it was not made to its end"
        )
    url = None if here else _saved_config(folder).storage
    try:
        name = None if here else (folder / "study.id").read_text(encoding="utf-8").strip()
        study = optuna.load_study(storage=open_storage(folder, url), study_name=name)
        written = study.user_attrs.get("format")
    except StorageError:
        raise
    except (KeyError, ValueError):
        written = None
    except Exception as error:
        raise StudyError(f"{url or folder / 'study.db'} cannot be read: {error}") from None
    if not isinstance(written, int):
        raise StudyError(f"{folder} was not made to its end; remove the folder and begin again")
    if written != FORMAT:
        age, remedy = "newer", "update fashion-search"
        if written < FORMAT:
            age, remedy = "older", f"begin it again with `run {folder / 'config.yaml'} --name NAME`"
        raise StudyError(
            f"{folder} was written by a{'n' if age == 'older' else ''} {age} version (format"
            f" {written}, this reads {FORMAT}); {remedy}"
        )
    config = _saved_config(folder)
    if config.storage != url:
        raise StudyError(
            f"{folder / 'config.yaml'} says storage: {config.storage or 'null'}, but the record is"
            f" in {folder / 'study.db'}; say null there"
        )
    return Study(folder, config, study)


def _saved_config(folder: Path) -> StudyConfig:
    try:
        return load_config(folder / "config.yaml")
    except ConfigError as error:
        raise StudyError(str(error)) from None
