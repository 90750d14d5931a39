"""A study written to MLflow: one run for it, and inside one for each trial and each final model."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from search.config.config_file import dump_config
from search.record.final_metrics import read_metrics
from search.record.study import Study, StudyError, Trial
from search.words import data_caution

_CURVES = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
)
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "running": "RUNNING"}  # others: FAILED
_AT_ONCE = 500  # values in one call, of the 1,000 that MLflow takes
_LONGEST = 5000  # characters of a tag
_SECRET = re.compile(r"//[^/@\s]+@")


def check_mlflow() -> None:
    """Raise StudyError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise StudyError(
            'MLflow is not installed; pip install -e ".[mlflow]" brings what --mlflow needs'
        )


def export_to_mlflow(study: Study, place: str, exported: Path) -> str:
    """Write a study to MLflow, as a new run of the experiment of its name; return what to say.

    Args:
        study: Retrained, and exported.
        place: A folder (its mlflow.db and artifacts/ are made), or a tracking URI.
        exported: The export, which goes there with the report and the result; without the report
            where that names the study's database.

    Raises:
        StudyError: MLflow is not installed, or does not take it.
    """
    check_mlflow()
    # It would tell its makers of every call.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    uri, artifacts = _place(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on its own insides
        try:
            mlflow = importlib.import_module("mlflow")
            logging.getLogger("mlflow").setLevel(logging.WARNING)  # its import has set it
            client = mlflow.MlflowClient(tracking_uri=uri)
            writer = _Writer(client, _experiment(client, study.name, artifacts))
            return f"{writer.write(study, exported)} runs in MLflow: {_shown(uri)}"
        except StudyError:
            raise
        except Exception as error:  # of its own, of SQLAlchemy, of requests
            told = _SECRET.sub("//", str(error).replace(uri, _shown(uri)))
            raise StudyError(f"MLflow at {_shown(uri)} does not take the study: {told}") from error


class _Writer:
    def __init__(self, client: Any, experiment: str) -> None:
        self._client, self._experiment = client, experiment
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._runs = 0
        self._unfinished: list[str] = []

    def write(self, study: Study, exported: Path) -> int:
        """Write all runs; return how many. Where that is broken off, those begun have failed."""
        try:
            return self._study(study, exported)
        except BaseException:
            with suppress(Exception):  # what broke it off is what is told
                for run in reversed(self._unfinished):
                    self._client.set_terminated(run, "FAILED")
            raise

    def _study(self, study: Study, exported: Path) -> int:
        metrics, trials = read_metrics(study.folder / "final"), study.trials()
        times = [row.at for trial in trials for row in trial.epochs]
        parent = self._begin(study.name, min(times, default=None), {"kind": "study"} | _tags(study))
        facts = study.noted("data") or {}
        self._log(
            parent,
            params=_flat({"data": facts.get("name"), "winner": metrics.get("winner_trial")})
            | _flat(study.config.model_dump(mode="json", exclude={"storage"})),
            metrics=[(key, value, 0, None) for key, value in _numbers(study, metrics).items()],
        )
        for trial in trials:
            self._trial(trial, parent)
        for row in metrics.get("models", []):
            self._final(row, parent)
        names = ["result.json", "report.html", "config.yaml"]
        if study.config.storage is not None:
            # Whoever sees the run need not see where the database is and as whom it is entered:
            # that is in the file, and the report shows the file.
            names = names[:1]
            config = dump_config(study.config.model_copy(update={"storage": None}))
            self._client.log_text(parent, config, "config.yaml")
        for path in (study.folder / name for name in names):
            if path.is_file():
                self._client.log_artifact(parent, str(path))
        self._client.log_artifacts(parent, str(exported), "export")
        self._end(parent, "FINISHED", max(times, default=None))
        return self._runs

    def _trial(self, trial: Trial, parent: str) -> None:
        tags = {
            "kind": "trial",
            "outcome": trial.outcome,
            "reason": trial.reason,
            "origin": trial.origin,
            "failure": trial.failure,
        }
        times = [row.at for row in trial.epochs]
        run = self._begin(trial.name, min(times, default=None), tags, parent)
        values = [
            (name, float(value), row.epoch, row.at)
            for row in trial.epochs
            for name in _CURVES
            if (value := getattr(row, name)) is not None
        ]
        best = [("best_val_accuracy", trial.value, 0, None)] if trial.value is not None else []
        sizes = {"parameters": trial.parameters, "multiply_adds": trial.multiply_adds}
        configuration = dict(trial.configuration or {}) | sizes
        self._log(run, params=_flat(configuration), metrics=[*values, *best])
        self._end(run, _STATUS.get(trial.outcome, "FAILED"), max(times, default=None))

    def _final(self, row: Mapping[str, Any], parent: str) -> None:
        tags = {"kind": "final", "group": row["group"], "model_sha256": row["model_sha256"]}
        run = self._begin(row["name"], None, tags, parent)
        test = row.get("test") or {}
        values = {"test_accuracy": test.get("accuracy"), "test_loss": test.get("loss")}
        values |= {key: row.get(key) for key in ("train_accuracy", "train_loss", "seconds")}
        self._log(
            run,
            params=_flat(row["configuration"] | {"seed": row["seed"], "epochs": row["epochs"]}),
            metrics=[(key, value, 0, None) for key, value in values.items() if value is not None],
        )
        self._end(run, "FINISHED", None)

    def _begin(self, name: str, at: float | None, tags: Mapping[str, str], parent: str = "") -> str:
        own = {f"fashion_search.{key}": value[:_LONGEST] for key, value in tags.items() if value}
        if parent:
            own["mlflow.parentRunId"] = parent
        run = self._client.create_run(
            self._experiment, start_time=_milliseconds(at), run_name=name, tags=own
        )
        self._runs += 1
        self._unfinished.append(str(run.info.run_id))
        return self._unfinished[-1]

    def _log(
        self,
        run: str,
        *,
        params: Mapping[str, str],
        metrics: Iterable[tuple[str, float, int, float | None]],
    ) -> None:
        rows = [
            self._entities.Metric(key, value, _milliseconds(at), step)
            for key, value, step, at in metrics
        ]
        pairs = [self._entities.Param(key, value) for key, value in params.items()]
        for i in range(0, len(pairs), 100):  # the most it takes
            self._client.log_batch(run, params=pairs[i : i + 100])
        for i in range(0, len(rows), _AT_ONCE):
            self._client.log_batch(run, metrics=rows[i : i + _AT_ONCE])

    def _end(self, run: str, status: str, at: float | None) -> None:
        if status != "RUNNING":
            self._client.set_terminated(run, status, end_time=_milliseconds(at))
        self._unfinished.remove(run)


def _tags(study: Study) -> dict[str, str]:
    looks = study.shown_looks()
    versions = study.noted("environment") or {}
    return {
        "state": study.state,
        "caution": data_caution(study),
        "test_looks": str(len(looks)),
        "seal_broken": str(any(look["broke_seal"] for look in looks)).lower(),
        "data_fingerprint": str((study.noted("data") or {}).get("fingerprint", "")),
        **{f"version.{name}": str(value) for name, value in versions.items()},
    }


def _numbers(study: Study, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the study's own numbers: those of the winner's group, on the test images."""
    winner = metrics.get("groups", {}).get("winner", {})
    low, high = winner.get("ci95") or (None, None)
    found = {
        "test_accuracy": winner.get("test_accuracy"),
        "test_accuracy_std": winner.get("test_accuracy_std"),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "trials": len(study.trials()),
    }
    return {key: float(value) for key, value in found.items() if value is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested JSON values as MLflow's parameters: `network.filters: [16, 32]`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)[:_LONGEST]
    return flat


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if known.lifecycle_stage != "active":
        raise StudyError(f"MLflow's experiment {name} is deleted; restore it there first")
    return str(known.experiment_id)


def _place(place: str) -> tuple[str, str | None]:
    """Return a tracking URI and where artefacts go: in a folder, or as the server has it."""
    if "://" in place or place == "databricks":
        return place, None
    folder = Path(place).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder} cannot be made: {error.strerror}") from None
    return f"sqlite:///{quote(str(folder / 'mlflow.db'))}", (folder / "artifacts").as_uri()


def _shown(uri: str) -> str:
    """Return a URI without what may be secret in it."""
    parts = urlsplit(uri)
    if parts.username is None and parts.password is None and not parts.query:
        return uri
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _milliseconds(at: float | None) -> int:
    return int(1000 * (time.time() if at is None else at))
