"""The images of a study: split, fingerprint, and what stands in when the data cannot be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.fashion_mnist import load_fashion_mnist
from data.images import DataError, DataUnavailable
from search.config.config import DataSection, StudyConfig
from search.config.config_file import load_config
from search.record.dataset import load_images, settle_source

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


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the cache, FASHION_MNIST_DIR and the mirrors."""
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Nothing listens on the discard port: refused at once.
    defaults = load_fashion_mnist.__kwdefaults__
    monkeypatch.setitem(defaults, "mirrors", ("http://127.0.0.1:9/",))
    monkeypatch.setitem(defaults, "backoff_seconds", 0.0)


@pytest.mark.usefixtures("offline")
def test_the_fallback_is_used_and_said_where_the_source_cannot_be_had() -> None:
    config, images, note = settle_source(_study(source="fashion-mnist", fallback="synthetic"))
    assert config.data.source == "synthetic"
    assert images.everything.synthetic
    assert note.startswith("drawn images (synthetic) stand in for fashion-mnist: ")
    assert "could not be fetched" in note


@pytest.mark.usefixtures("offline")
def test_without_a_fallback_data_that_cannot_be_had_are_an_error() -> None:
    with pytest.raises(DataUnavailable, match="check the network"):
        settle_source(_study(source="fashion-mnist"))


def test_nothing_stands_in_for_a_source_that_is_there() -> None:
    config, _, note = settle_source(_study())
    assert (config.data.source, note) == ("synthetic", "")


def test_a_mistake_is_an_error_and_not_a_reason_to_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))  # an empty folder
    with pytest.raises(DataError, match="FASHION_MNIST_DIR"):
        settle_source(_study(source="fashion-mnist", fallback="synthetic"))
    with pytest.raises(DataError, match="60"):
        settle_source(_study(fallback="synthetic", validation_images=60, train_images=60))


def test_drawn_images_are_split_alike_whether_asked_for_or_standing_in() -> None:
    config, images, _ = settle_source(_study(validation_images=300))
    assert config.data.validation_images == images.validation.num_images == 60
