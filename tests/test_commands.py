"""Every command, run as a user runs it, on one small study of drawn images (real Ray)."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import typer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from data.source import DataSpec, load_test
from search.cli import app
from search.record.lock import hold
from search.record.study import open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parent.parent
SMALL = (
    "max_epochs=4",
    "budget={trials: 7}",
    "points=[]",
    "data.synthetic_train=1500",
    "data.synthetic_test=400",
    "data.validation_images=300",
    "space={filters: {choice: [4, 6], per_block: true}, num_blocks: {int: [1, 2]},"
    " learning_rate: {float: [0.01, 0.3], log: true}, batch_size: 64}",
    "asha={min_competitors: 2, reduction_factor: 2, grace_epochs: 1}",
    "final={finalists: 2, rounds: 2, race_baselines: false, seeds: 2, baseline_seeds: 1}",
    "resources.max_concurrent=2",
)


def search(*arguments: str, cwd: Path = CHECKOUT, **environment: str) -> Any:
    """Run `python -m search` with the arguments; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one finished study, `small`."""
    folder = tmp_path_factory.mktemp("runs")
    settings = [part for value in SMALL for part in ("--set", value)]
    done = search(
        "run", "--preset", "quickstart", "--data", "synthetic", "--name", "small",
        "--runs", str(folder), *settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (folder / "output.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def result(runs: Path) -> dict[str, Any]:
    """Return the study's result.json."""
    content: dict[str, Any] = json.loads((runs / "small" / "result.json").read_text())
    return content


def test_a_run_leaves_everything_the_readme_promises(runs: Path, result: dict[str, Any]) -> None:
    folder = runs / "small"
    for name in ("config.yaml", "study.db", "report.html", "report.md", "result.json"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("model.safetensors", "model.onnx", "model.pt2", "model_card.md", "SHA256SUMS"):
        assert (folder / "export" / name).stat().st_size > 0, name
    assert not list(folder.glob("**/*.pkl"))


def test_the_result_counts_every_trial_and_names_the_best(result: dict[str, Any]) -> None:
    trials = result["trials"]
    assert result["status"] == "finished"
    assert trials["total"] == 7
    assert trials["total"] == sum(trials[k] for k in ("complete", "pruned", "failed", "infeasible"))
    assert trials["failed"] == 0
    assert trials["pruned"] >= 1
    assert result["best"]["val_accuracy"] > 0.3
    assert [b["name"] for b in result["baselines"]] == ["seed-32", "seed-64", "seed-64-dropout"]


def test_drawn_images_are_named_in_result_screen_and_report(
    runs: Path, result: dict[str, Any]
) -> None:
    assert result["dataset"]["synthetic"] is True
    assert "synthetic" in (runs / "output.txt").read_text().lower()
    assert "synthetic" in (runs / "small" / "report.html").read_text().lower()


def test_the_final_number_is_the_mean_of_the_seeds_on_the_test_images(
    runs: Path, result: dict[str, Any]
) -> None:
    accuracies = []
    for name in ("winner-s0", "winner-s1"):
        with np.load(runs / "small" / "final" / name / "test.npz", allow_pickle=False) as test:
            accuracies.append(float((test["logits"].argmax(1) == test["labels"]).mean()))
    assert result["final"]["test_accuracy"] == pytest.approx(np.mean(accuracies))
    low, high = result["final"]["ci95"]
    assert low <= result["final"]["test_accuracy"] <= high
    assert result["final"]["test_looks"] == 1


def test_tensorboard_has_a_curve_and_an_hparams_row_for_every_trial(
    runs: Path, result: dict[str, Any]
) -> None:
    trials = runs / "small" / "trials"
    for number in range(result["trials"]["total"]):
        events = EventAccumulator(str(trials / f"t{number:04d}")).Reload()
        assert len(events.Scalars("accuracy/validation")) >= 1
        plugin = events.summary_metadata
        start = plugin_data_pb2.HParamsPluginData.FromString(
            plugin["_hparams_/session_start_info"].plugin_data.content
        ).session_start_info
        assert {"filters_1", "learning_rate", "origin"} <= set(start.hparams)
        assert "_hparams_/session_end_info" in plugin
    described = EventAccumulator(str(trials)).Reload().summary_metadata["_hparams_/experiment"]
    columns = plugin_data_pb2.HParamsPluginData.FromString(described.plugin_data.content)
    assert "filters_2" in {info.name for info in columns.experiment.hparam_infos}


def test_a_second_look_at_the_test_set_is_refused_without_a_reason(runs: Path) -> None:
    refused = search("evaluate", "small", "--runs", str(runs))
    assert refused.returncode == 2
    assert "--break-seal" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_resume_of_a_finished_study_shows_its_result_and_repeats_nothing(
    runs: Path, result: dict[str, Any]
) -> None:
    weights = runs / "small" / "final" / "winner-s0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = search("resume", "small", "--runs", str(runs), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["final"] == result["final"]
    assert weights.stat().st_mtime_ns == before


def test_a_study_that_is_being_worked_on_is_refused_by_name_of_the_holder(runs: Path) -> None:
    with hold(open_study(runs / "small")):
        refused = search("resume", "small", "--runs", str(runs))
        assert search("status", "small", "--runs", str(runs)).returncode == 0
    assert refused.returncode == 2
    assert f"being worked on by process {os.getpid()} on" in refused.stderr


def test_status_shows_the_same_counts_as_the_result(runs: Path, result: dict[str, Any]) -> None:
    shown = search("status", "small", "--runs", str(runs), "--json")
    status = json.loads(shown.stdout)
    assert status["state"] == "finished"
    assert status["alive"] is False
    nobody = {"running": 0, "paused": 0, "unfinished": 0}
    assert status["trials"] == result["trials"] | nobody
    assert status["best"] == result["best"]
    table = search("status", "small", "--runs", str(runs), COLUMNS="100")
    assert table.returncode == 0, table.stderr
    every = search("status", "--runs", str(runs), COLUMNS="100")
    assert "small" in every.stdout


def test_report_and_export_run_again_from_the_folder_alone(runs: Path, tmp_path: Path) -> None:
    page = runs / "small" / "report.html"
    page.unlink()
    assert search("report", "small", "--runs", str(runs)).returncode == 0
    assert page.stat().st_size > 10_000
    out = tmp_path / "out"
    done = search("export", "small", "--runs", str(runs), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "model.onnx").is_file()


def test_the_exported_onnx_gives_the_recorded_test_predictions(runs: Path) -> None:
    test = load_test(DataSpec(source="synthetic", synthetic_train=1500, synthetic_test=400))
    session = onnxruntime.InferenceSession(str(runs / "small" / "export" / "model.onnx"))
    name = session.get_inputs()[0].name
    logits = session.run(None, {name: test.images.astype(np.float32)})[0]
    with np.load(runs / "small" / "final" / "winner-s0" / "test.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(logits.argmax(1), kept["logits"].argmax(1))
        np.testing.assert_allclose(logits, kept["logits"], atol=1e-4)


def test_predict_labels_a_picture_and_a_csv_row_alike(runs: Path, tmp_path: Path) -> None:
    test = load_test(DataSpec(source="synthetic", synthetic_train=1500, synthetic_test=400))
    picture = tmp_path / "one.png"
    Image.fromarray(test.images[0, 0]).save(picture)
    row = tmp_path / "one.csv"
    with row.open("w", newline="") as file:
        csv.writer(file).writerow([int(test.labels[0]), *test.images[0].ravel().tolist()])
    shown = search(
        "predict", "small", str(picture), str(row), "--runs", str(runs), "--top", "3", "--json"
    )
    assert shown.returncode == 0, shown.stderr
    first, second = json.loads(shown.stdout)
    assert first["labels"] == second["labels"]
    assert first["labels"][0] in test.classes
    assert len(first["labels"]) == 3
    assert 0 < first["probabilities"][0] <= 1
    table = search("predict", "small", str(picture), "--runs", str(runs))
    assert first["labels"][0] in table.stdout


def test_what_is_retrained_alike_keeps_its_number_and_another_look_needs_a_reason(
    runs: Path, result: dict[str, Any]
) -> None:
    done = search("retrain", "small", "--runs", str(runs), "--quiet")
    assert done.returncode == 0, done.stderr
    same = search("evaluate", "small", "--runs", str(runs), "--json")
    assert same.returncode == 0, same.stderr  # the very files that were looked at before
    again = json.loads(same.stdout)["final"]
    assert again["test_looks"] == 1 and again["seal_broken"] is False
    assert again["test_accuracies"] == result["final"]["test_accuracies"]
    for refused in ([], ["--break-seal", " "]):
        assert search("evaluate", "small", "--runs", str(runs), *refused).returncode == 2
    looked = search(
        "evaluate", "small", "--runs", str(runs), "--break-seal", "a test of the seal", "--json"
    )
    assert looked.returncode == 0, looked.stderr
    final = json.loads(looked.stdout)["final"]
    assert final["test_looks"] == 2
    assert final["seal_broken"] is True
    card = json.loads((runs / "small" / "export" / "model_card.json").read_text())
    assert len(card["looks"]) == 2  # made anew: it tells of every look


def test_explore_writes_one_page(tmp_path: Path) -> None:
    done = search("explore", "synthetic", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "index.html")
    assert (tmp_path / "index.html").stat().st_size > 100_000


def test_a_study_is_repeated_from_its_own_record(runs: Path, tmp_path: Path) -> None:
    # One slot: with more, the order in which trials report decides what ASHA compares.
    config = str(runs / "small" / "config.yaml")
    one = ("--set", "resources.max_concurrent=1", "--set", "final.export=false")
    for name in ("first", "second"):
        done = search("run", config, "--name", name, "--runs", str(tmp_path), *one, "--quiet")
        assert done.returncode == 0, done.stderr
    first, second = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("first", "second")
    )
    assert first["best"] == second["best"]
    assert first["trials"] == second["trials"]
    assert first["final"]["test_accuracies"] == second["final"]["test_accuracies"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "nothing"), ["nothing", "no study"]),
        (("run",), ["--preset"]),
        (("run", "--preset", "quikstart"), ["quikstart", "did you mean `quickstart`"]),
        (("run", "--preset", "quickstart", "--set", "asha.reduction=4"), ["reduction_factor"]),
        (("run", "--preset", "quickstart", "--data", "/no/such"), ["/no/such"]),
        (("predict", "nothing", "x.png"), ["nothing"]),
    ],
)
def test_bad_input_gives_one_clear_line(
    arguments: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    done = search(*arguments, "--runs", str(tmp_path))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.iterdir())  # nothing half done is left


def test_help_is_light() -> None:
    shown = search("--help")
    assert shown.returncode == 0
    group: Any = typer.main.get_command(app)
    assert {"run", "plan", "export"} <= set(group.commands)
    for name, command in group.commands.items():
        assert (f"  {name}  " in shown.stdout) != command.hidden
    probe = "import sys, search.cli; print([m for m in ('torch', 'ray') if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
