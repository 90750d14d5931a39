"""The images of a study: split, fingerprint, and what stands in when the data cannot be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.images import DataError
from search.config import DataSection, StudyConfig
from search.config_file import load_config
from search.dataset import load_images, settle_source

SMALL = DataSection(
    source="synthetic", synthetic_train=600, synthetic_test=100, validation_images=100
)


def _study(**data: object) -> StudyConfig:
    config = load_config(preset="quickstart")
    return config.model_copy(update={"data": SMALL.model_copy(update=data)})


def _check_stratified(part: NDArray[np.int64], *, of: NDArray[np.int64]) -> None:
    # Every class has its share, to within one image.
    expected = np.bincount(of) * len(part) / len(of)
    assert np.all(np.abs(np.bincount(part) - expected) < 1)


def test_train_and_validation_images_are_all_the_images_and_share_none() -> None:
    images = load_images(SMALL)
    together = np.concatenate([images.train_indices, images.validation_indices])
    np.testing.assert_array_equal(np.sort(together), np.arange(600))
    assert images.validation.num_images == 100
    _check_stratified(images.validation.labels, of=images.everything.labels)


def test_the_fingerprint_follows_content_and_split() -> None:
    first = load_images(SMALL).fingerprint
    assert first == load_images(SMALL).fingerprint
    assert first != load_images(SMALL.model_copy(update={"seed": 1})).fingerprint
    assert first != load_images(SMALL.model_copy(update={"validation_images": 120})).fingerprint


def test_fewer_training_images_are_a_stratified_part() -> None:
    images = load_images(SMALL.model_copy(update={"train_images": 200, "validation_images": 50}))
    assert images.everything.num_images == 200
    whole = load_images(SMALL).everything
    _check_stratified(images.everything.labels, of=whole.labels)


def test_the_fallback_is_used_and_said_only_where_the_source_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))  # an empty folder
    config, images, note = settle_source(_study(source="fashion-mnist", fallback="synthetic"))
    assert config.data.source == "synthetic"
    assert images.everything.synthetic
    assert "stand in for fashion-mnist" in note
    assert str(tmp_path) in note

    same, _, nothing = settle_source(_study())
    assert same.data.source == "synthetic"
    assert nothing == ""


def test_without_a_fallback_missing_data_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))
    with pytest.raises(DataError, match="FASHION_MNIST_DIR"):
        settle_source(_study(source="fashion-mnist"))
