"""A study in MLflow (a real store): a run for it, one for each trial, the models and files."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from search.config.config_file import dump_config
from search.handover import mlflow_export
from search.handover.mlflow_export import _shown, check_mlflow, export_to_mlflow
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, StudyError, best_of, open_study

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def study(patients: dict[str, Path], tmp_path: Path) -> Study:
    """Return a finished study with the numbers of its one final model."""
    study = open_study(shutil.copytree(patients["finished"], tmp_path / "done"))
    best = best_of(study.trials())
    assert best is not None
    metrics = read_metrics(study.folder / "final")
    row = metrics["models"][0] | {
        "seed": 7,
        "epochs": 9,
        "configuration": best.configuration,
        "train_accuracy": 0.97,
        "train_loss": None,  # not a number
        "seconds": 12.0,
        "test": {"accuracy": 0.925, "loss": 0.21},
    }
    groups = {"winner": {"test_accuracy": 0.925, "test_accuracy_std": None, "ci95": [0.92, 0.93]}}
    write_metrics(study.folder / "final", metrics | {"models": [row], "groups": groups})
    look = study.record.add_look(reason="final", models="{}", broke_seal=False)
    study.record.end_look(look, result="{}")
    return study


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
@pytest.mark.filterwarnings("ignore")  # its own
def test_a_study_is_written_with_its_trials_curves_and_files(study: Study, tmp_path: Path) -> None:
    place = tmp_path / "ml flow"
    said = export_to_mlflow(study, str(place), study.folder / "export")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    trials = study.trials()
    assert said.startswith(f"{len(trials) + 2} runs in MLflow: sqlite:///")
    assert set(runs) == {study.name, "winner-s0"} | {trial.name for trial in trials}
    parent = runs[study.name]
    assert parent.data.metrics["test_accuracy"] == 0.925
    assert parent.data.metrics["test_accuracy_low"] == 0.92
    assert parent.data.tags["fashion_search.test_looks"] == "1"
    assert parent.data.tags["fashion_search.seal_broken"] == "false"
    for name, run in runs.items():
        of = run.data.tags.get("mlflow.parentRunId")
        assert of == (None if name == study.name else parent.info.run_id)
    status = {"complete": "FINISHED", "pruned": "KILLED"}
    for trial in trials:
        run = runs[trial.name]
        assert run.info.status == status.get(trial.outcome, "FAILED")
        assert run.data.tags["fashion_search.outcome"] == trial.outcome
        assert run.data.params["training.learning_rate"] == str(
            (trial.configuration or {})["training"]["learning_rate"]
        )
        curve = client.get_metric_history(run.info.run_id, "val_accuracy")
        found = [(point.step, point.value) for point in sorted(curve, key=lambda p: p.step)]
        assert found == [(row.epoch, row.val_accuracy) for row in trial.epochs]
        assert run.info.start_time == int(1000 * trial.epochs[0].at)
    final = runs["winner-s0"].data
    assert (final.metrics["test_accuracy"], final.params["seed"]) == (0.925, "7")
    assert "train_loss" not in final.metrics
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"config.yaml", "export", "report.html", "result.json"}
    inside = {file.path for file in client.list_artifacts(parent.info.run_id, "export")}
    assert "export/model.onnx" in inside
    again = export_to_mlflow(study, str(place), study.folder / "export")
    assert again == said
    assert len(client.search_runs([experiment.experiment_id])) == 2 * len(runs)


class Client:
    """What `_Writer` calls, written down; `log_batch` fails where it has been called often."""

    def __init__(self, batches: int = 10**6) -> None:
        """Take how many batches it logs."""
        self.status: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self._left = batches

    def create_run(self, experiment: str, **_: Any) -> Any:
        name = str(len(self.status))
        self.status[name] = "RUNNING"
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(self, *_: Any, **__: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError("the server has gone")

    def log_artifact(self, run: str, path: str) -> None:
        self.files[Path(path).name] = Path(path).read_text()

    def log_text(self, run: str, text: str, name: str) -> None:
        self.files[name] = text

    def log_artifacts(self, run: str, folder: str, name: str) -> None:
        pass

    def set_terminated(self, run: str, status: str, **_: Any) -> None:
        self.status[run] = status


@pytest.fixture
def entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no MLflow to import."""
    made = SimpleNamespace(Metric=lambda *given: given, Param=lambda *given: given)
    monkeypatch.setattr(importlib, "import_module", lambda name: made)


@pytest.mark.usefixtures("entities")
def test_where_the_database_is_stays_here(study: Study) -> None:
    plain = Client()
    mlflow_export._Writer(plain, "1").write(study, study.folder / "export")
    assert set(plain.files) == {"result.json", "report.html", "config.yaml"}
    url = "postgresql://somebody@inside.example/base"
    config = study.config.model_copy(update={"storage": url})
    (study.folder / "config.yaml").write_text(dump_config(config))
    (study.folder / "report.html").write_text(dump_config(config))  # it shows that file
    client = Client()
    study.config = config
    mlflow_export._Writer(client, "1").write(study, study.folder / "export")
    assert set(client.files) == {"result.json", "config.yaml"}
    assert not [name for name, text in client.files.items() if "inside.example" in text]
    assert yaml.safe_load(client.files["config.yaml"])["study"] == config.study


@pytest.mark.usefixtures("entities")
def test_runs_of_an_export_that_is_broken_off_have_failed(study: Study) -> None:
    whole = Client()
    mlflow_export._Writer(whole, "1").write(study, study.folder / "export")
    assert whole.status["0"] == "FINISHED"
    client = Client(batches=4)
    with pytest.raises(OSError, match="has gone"):
        mlflow_export._Writer(client, "1").write(study, study.folder / "export")
    statuses = list(client.status.values())
    assert (statuses[0], statuses[-1]) == ("FAILED", "FAILED")  # the study's, and what was written
    assert len(statuses) > 2
    assert "RUNNING" not in statuses


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_place_that_does_not_take_it_is_one_line_without_a_password(
    study: Study, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be made"):
        export_to_mlflow(study, str(tmp_path / "file" / "in"), study.folder / "export")
    bad = "strange://me:secret@host/place"
    with pytest.raises(StudyError, match="MLflow at strange://host/place") as caught:
        export_to_mlflow(study, bad, study.folder / "export")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_mlflow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Any:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(StudyError, match=r'MLflow is not installed; pip install -e "\.\[mlflow\]"'):
        check_mlflow()


def test_what_is_secret_in_an_address_is_not_shown() -> None:
    assert _shown("sqlite:////a/mlflow.db") == "sqlite:////a/mlflow.db"
    assert _shown("http://host:5000") == "http://host:5000"
    assert _shown("https://me:secret@host:5000/x?token=y") == "https://host:5000/x"
    assert json.dumps(_shown("postgresql://me@host/base")) == '"postgresql://host/base"'
