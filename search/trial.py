"""One trial on a worker: Ray's class Trainable around `model.train.fit`, an epoch a step.

The class form, not the function form: a stop between two epochs needs no thread and no exception,
and the next trial starts in the same process at once (`reset_config`).
"""

from __future__ import annotations

import math
import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from ray import tune

from data.images import LabelledImages
from data.loader import as_tensors
from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.config import Configuration
from model.train import EpochMetrics, Training, fit
from search.slots import pick_device

TRIAL, FAILURE, REMARK, METRICS = "trial", "failure", "remark", "metrics"
"""Keys of what a worker reports: the trial's number, a traceback or "", what was substituted or "",
the epoch's metrics."""


class TrialWorker(tune.Trainable):
    """Trains the trials handed to one slot, one after the other."""

    _epochs: Iterator[EpochMetrics] | None

    def setup(
        self,
        config: dict[str, Any],
        train: LabelledImages | None = None,
        validation: LabelledImages | None = None,
        pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> None:
        """Keep the images, which all slots of a node share without copies, and begin.

        Args:
            config: The first assignment, as `search.bridge` sends it.
            train: Images to train on; read-only memory of Ray's object store.
            validation: Images to score on.
            pixels: Mean and standard deviation of the training pixels, one value a channel.
            threads: CPU threads of the slot.
            gpus: GPU share of the slot.
        """
        assert train is not None and validation is not None and pixels is not None
        torch.set_num_threads(threads)
        self._device = pick_device(gpus)
        self._shape, self._pixels = train.shape, pixels
        self._train = as_tensors(train, self._device)
        self._validation = as_tensors(validation, self._device)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch, write the checkpoint, report."""
        report: dict[str, Any] = {
            TRIAL: self._trial,
            FAILURE: "",
            REMARK: "",
            METRICS: None,
            "node": platform.node(),
            "pid": os.getpid(),
        }
        try:
            if self._epochs is None:
                self._epochs = self._start()
            metrics = next(self._epochs)
            if metrics.epoch > len(self._trained):
                self._trained.append(asdict(metrics))
                if math.isfinite(metrics.train_loss):
                    written = {"epochs": self._trained}
                    save_checkpoint(self._training, self._checkpoint, written)
            report[METRICS] = asdict(metrics)
            report[REMARK] = self._remark
        except Exception:  # a bug in one configuration must not end the study
            report[FAILURE] = traceback.format_exc()
        return report

    def _begin(self, config: Mapping[str, Any]) -> None:
        # Nothing that can fail happens here: an error in `setup` would count as a lost worker.
        self._config = dict(config)
        self._trial = int(config[TRIAL])
        self._checkpoint = Path(config["checkpoint"])
        self._epochs = None
        self._remark = ""

    def _start(self) -> Iterator[EpochMetrics]:
        configuration = Configuration.from_dict(self._config["configuration"])
        self._training, self._trained = self._resume(configuration)
        # Those that a worker before this one wrote into the checkpoint, and the record has not: it
        # died before it reported them, or the machine lost power before they were on its disk.
        unrecorded = self._trained[int(self._config["from_epoch"]) :]
        epochs = fit(self._training, self._train, self._validation)
        return chain((EpochMetrics(**metrics) for metrics in unrecorded), epochs)

    def _resume(self, configuration: Configuration) -> tuple[Training, list[dict[str, Any]]]:
        """Return the training where it was left, and the metrics of every epoch by then."""
        if self._checkpoint.exists():
            try:
                training, written = load_checkpoint(self._checkpoint, self._device)
            except CheckpointError as error:
                self._remark = str(error)
            else:
                if training.configuration == configuration:
                    return training, list(written["epochs"])
                self._remark = f"{self._checkpoint} is of another configuration"
        elif int(self._config["from_epoch"]) > 0:
            self._remark = f"{self._checkpoint} is gone"
        if self._remark:
            self._remark += "; it started again from its first epoch"
        mean, std = self._pixels
        training = Training.start(
            configuration,
            self._shape,
            mean=mean,
            std=std,
            seed=int(self._config["seed"]),
            device=self._device,
        )
        return training, []
