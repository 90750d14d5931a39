"""The images of one study: loaded, cut to size, split and fingerprinted. Never the test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.download import Progress
from data.images import DataUnavailable, ImageShape, LabelledImages
from data.source import load_train
from data.split import split_fingerprint, stratified_split
from search.config.config import DataSection, StudyConfig
from search.study_error import StudyError

if TYPE_CHECKING:
    from search.record.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyImages:
    """All training images of a study, and which of them are held out."""

    everything: LabelledImages
    """What the retrain trains on: training and validation images."""
    train_indices: NDArray[np.int64]
    validation_indices: NDArray[np.int64]
    fingerprint: str
    """SHA-256 of the images, the labels and the split."""

    @property
    def train(self) -> LabelledImages:
        """Return the images that trials train on."""
        return self.everything.take(self.train_indices)

    @property
    def validation(self) -> LabelledImages:
        """Return the images that trials are scored on."""
        return self.everything.take(self.validation_indices)

    def facts(self) -> dict[str, object]:
        """Return what the record keeps about the data."""
        shape = self.everything.shape
        return {
            "name": self.everything.name,
            "origin": self.everything.origin,
            "synthetic": self.everything.synthetic,
            "fingerprint": self.fingerprint,
            "train_images": len(self.train_indices),
            "validation_images": len(self.validation_indices),
            "classes": list(self.everything.classes),
            "channels": shape.channels,
            "height": shape.height,
            "width": shape.width,
        }


def load_images(section: DataSection, progress: Progress | None = None) -> StudyImages:
    """Load the training images of a study and split them.

    Raises:
        DataError: The data cannot be had, or are fewer than asked for.
    """
    everything = load_train(section.spec(), progress)
    if section.train_images is not None and section.train_images < everything.num_images:
        _, kept = stratified_split(everything.labels, section.train_images, section.seed)
        everything = everything.take(kept)
    train, validation = stratified_split(everything.labels, section.validation_images, section.seed)
    return StudyImages(
        everything=everything,
        train_indices=train,
        validation_indices=validation,
        fingerprint=split_fingerprint(everything.fingerprint(), validation),
    )


def image_shape(study: Study) -> ImageShape:
    """Return what the images of a study look like, by its record; they need not be there.

    Raises:
        StudyError: The record does not say it.
    """
    facts = study.noted("data") or {}
    try:
        return ImageShape(
            channels=facts["channels"],
            height=facts["height"],
            width=facts["width"],
            num_classes=len(facts["classes"]),
        )
    except KeyError as error:
        raise StudyError(
            f"the record of {study.name} does not tell the {error.args[0]} of its images; only a"
            " study that `run` has begun tells it"
        ) from None


def settle_source(
    config: StudyConfig, progress: Progress | None = None
) -> tuple[StudyConfig, StudyImages, str]:
    """Load the study's images; where they cannot be had, those of `data.fallback`.

    Only data that are neither on this machine nor to be downloaded are substituted: a damaged file
    or an empty FASHION_MNIST_DIR is an error.

    Returns the configuration as it then is, the images, and one line that says what was
    substituted and why (empty where nothing was).
    """
    try:
        section = _fit_to_drawn(config.data)
        return config.model_copy(update={"data": section}), load_images(section, progress), ""
    except DataUnavailable as error:
        if config.data.fallback is None:
            raise
        reason = str(error)
    section = _fit_to_drawn(config.data.model_copy(update={"source": config.data.fallback}))
    note = f"drawn images ({section.source}) stand in for {config.data.source}: {reason}"
    return config.model_copy(update={"data": section}), load_images(section, progress), note


def _fit_to_drawn(section: DataSection) -> DataSection:
    # 6,000 validation images suit 60,000; of fewer drawn ones more than a fifth is too many.
    most = section.synthetic_train // 5
    if section.source != "synthetic" or section.validation_images <= most:
        return section
    return section.model_copy(update={"validation_images": section.synthetic_train // 10})
