"""The seal of the test set: one door, every look recorded, before the images are opened."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.images import FASHION_CLASSES, ImageShape
from model.checkpoint import save_model
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import Training
from search.config.config import DataSection
from search.config.config_file import load_config
from search.final import look
from search.final.look import look_at_test, was_opened_for_others
from search.record.final_metrics import read_metrics, write_metrics
from search.record.study import Study, StudyError, create

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Return a study of drawn images with one untrained final model."""
    data = DataSection(source="synthetic", synthetic_train=200, synthetic_test=60)
    config = load_config(preset="quickstart").model_copy(update={"data": data})
    made = create(config, tmp_path / "study", facts={}, environment={})
    configuration = Configuration(
        network=NetworkConfig(filters=(4,)), training=TrainingConfig(epochs=1, learning_rate=0.1)
    )
    shape = ImageShape(channels=1, height=28, width=28, num_classes=10)
    training = Training.start(configuration, shape, (70.0,), (80.0,), 0, torch.device("cpu"))
    path = made.folder / "final" / "winner-s0" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_model(training, path, classes=FASHION_CLASSES, metrics={})
    row = {
        "name": "winner-s0",
        "group": "winner",
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_metrics(made.folder / "final", {"models": [row]})
    return made


def test_a_look_is_recorded_with_the_models_it_measures(study: Study) -> None:
    metrics = look_at_test(study, reason="final evaluation")
    (entry,) = study.record.looks()
    assert entry["reason"] == "final evaluation"
    assert entry["broke_seal"] is False
    assert json.loads(entry["result"]) == metrics["groups"]
    assert json.loads(entry["models"]) == {"winner-s0": metrics["models"][0]["model_sha256"]}
    assert metrics["test_images"] == 60
    with np.load(study.folder / "final" / "winner-s0" / "worst.npz", allow_pickle=False) as worst:
        assert worst["images"].shape == (24, 1, 28, 28)
        np.testing.assert_array_equal(worst["probabilities"].argmax(1), worst["predictions"])


def test_a_second_look_needs_a_reason_and_marks_the_record(study: Study) -> None:
    look_at_test(study, reason="final evaluation")
    with pytest.raises(StudyError, match=r"looked at the test set 1 time.*--break-seal"):
        look_at_test(study, reason="final evaluation")
    assert len(study.record.looks()) == 1
    look_at_test(study, reason="final evaluation", break_seal="the export was wrong")
    second = study.record.looks()[1]
    assert (second["reason"], second["broke_seal"]) == ("the export was wrong", True)


def test_a_look_whose_result_was_lost_on_its_way_to_the_file_is_no_second_one(
    study: Study,
) -> None:
    final = study.folder / "final"
    before = read_metrics(final)
    shown = look_at_test(study, reason="final evaluation")["groups"]
    write_metrics(final, before)  # as where the process died before it wrote
    assert not was_opened_for_others(study)
    assert look_at_test(study, reason="final")["groups"] == shown
    assert len(study.record.looks()) == 1
    before["models"][0]["model_sha256"] = "0" * 64  # other models
    write_metrics(final, before)
    assert was_opened_for_others(study)
    with pytest.raises(StudyError, match="--break-seal"):
        look_at_test(study, reason="final")


def test_the_look_is_on_record_even_if_opening_the_images_fails(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: object) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(look, "load_test", unreadable)
    with pytest.raises(OSError, match="disk"):
        look_at_test(study, reason="final evaluation")
    (failed,) = study.record.looks()
    assert failed["result"] is None
    # It showed no number: the next one is still the first that does.
    monkeypatch.undo()
    look_at_test(study, reason="final evaluation")
    assert [look["broke_seal"] for look in study.record.looks()] == [False, False]


def test_a_model_that_was_changed_after_the_retrain_is_refused_unseen(study: Study) -> None:
    path = study.folder / "final" / "winner-s0" / "model.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StudyError, match="not the model that was retrained"):
        look_at_test(study, reason="final evaluation")
    assert study.record.looks() == []


def test_only_the_look_and_the_data_explorer_can_open_the_test_images() -> None:
    users = set()
    for path in [*CHECKOUT.glob("search/**/*.py"), *CHECKOUT.glob("model/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and any(
                alias.name == "load_test" for alias in node.names
            ):
                users.add(path.name)
    # `explore` is a command of its own that no study runs.
    assert users == {"look.py", "cli_results.py"}
