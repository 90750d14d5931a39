"""One trial on a worker: Ray's class Trainable around `model.train.fit`, an epoch a step.

The class form, not the function form: a stop between two epochs needs no thread and no exception,
and the next trial starts in the same process at once (`reset_config`).
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import ray
import torch
from ray import tune
from torch import Tensor

from data.images import LabelledImages
from data.loader import as_tensors
from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.config import Configuration
from model.train import EpochMetrics, Training, fit
from search.drive.failure import of_error
from search.drive.shelf import Shelf
from search.machine.slots import pick_device
from search.record.study import trial_name

ASSIGNMENT = "assignment"
"""Key of an assignment as JSON text: whatever is more than that, Tune copies and flattens."""
ON_CPU, SLOT = "on_cpu", "slot"
"""Keys that say whether a trial has no GPU though others have, and the number of its slot."""
TRIAL, FAILURE, REMARK, METRICS = "trial", "failure", "remark", "metrics"
"""Keys of what a worker reports: the trial's number, its failure (JSON) or "", what was substituted
or "", the epoch's metrics."""


class TrialWorker(tune.Trainable):
    """Trains the trials handed to one slot, one after the other."""

    _epochs: Iterator[EpochMetrics] | None
    _training: Training | None
    _remark: str

    def setup(
        self,
        config: dict[str, Any],
        train: LabelledImages | list[Any] | None = None,
        validation: LabelledImages | list[Any] | None = None,
        pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        shelf: Shelf | None = None,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> None:
        """Keep the images, which all slots of a node share without copies, and begin.

        Args:
            config: The first assignment, as `search.engine.bridge` sends it.
            train: Images to train on; read-only memory of Ray's object store.
            validation: Images to score on.
            pixels: Mean and standard deviation of the training pixels, one value a channel.
            shelf: Where the checkpoints of all trials lie.
            threads: CPU threads of the slot.
            gpus: GPU share of the slot.
        """
        assert train is not None and validation is not None
        assert pixels is not None and shelf is not None
        torch.set_num_threads(threads)
        self._gpus = 0.0 if config.get(ON_CPU) else gpus  # Tune reuses a slot for its like only
        self._pixels, self._shelf = pixels, shelf
        self._images = fetched(train), fetched(validation)
        self._node_id = str(ray.get_runtime_context().get_node_id())
        self._gpu_is_lost = False
        self._tensors: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
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
            "node_id": self._node_id,
            "pid": os.getpid(),
        }
        if self._gpu_is_lost:
            os._exit(1)  # to the driver a lost worker: the trial goes on in another process
        try:
            if self._epochs is None:
                self._epochs = self._start()
            metrics = next(self._epochs)
            if metrics.epoch > len(self._trained):
                self._trained.append(asdict(metrics))
                if math.isfinite(metrics.train_loss):
                    self._save(metrics.epoch)
            report[METRICS] = asdict(metrics)
            report[REMARK] = self._remark
        except Exception as error:  # one configuration must not end the study
            failure = of_error(error)
            report[FAILURE] = json.dumps(asdict(failure))
            self._gpu_is_lost = failure.kind == "bug" and _is_of_gpu(error)
            # What it has taken is free for the next trial before that begins.
            self._epochs, self._training = None, None
        return report

    def _begin(self, config: Mapping[str, Any]) -> None:
        # Nothing that can fail happens here: an error in `setup` would count as a lost worker.
        self._config = json.loads(config[ASSIGNMENT]) if ASSIGNMENT in config else dict(config)
        self._trial = int(self._config[TRIAL])
        self._epochs = None
        self._training = None
        self._remark = ""

    def _start(self) -> Iterator[EpochMetrics]:
        configuration = Configuration.from_dict(self._config["configuration"])
        device = pick_device(self._gpus)
        if self._tensors is None:
            train, validation = self._images
            self._tensors = as_tensors(train, device), as_tensors(validation, device)
        training, self._trained = self._resume(configuration, device)
        self._training = training
        # Those that a worker before this one wrote into the checkpoint, and the record has not: it
        # died before it reported them, or the machine lost power before they were on its disk.
        unrecorded = self._trained[int(self._config["from_epoch"]) :]
        epochs = fit(training, *self._tensors)
        return chain((EpochMetrics(**metrics) for metrics in unrecorded), epochs)

    def _save(self, epoch: int) -> None:
        assert self._training is not None
        with self._shelf.writing(self._trial, epoch) as path:
            save_checkpoint(self._training, path, {"epochs": self._trained})
        best = max(self._trained, key=lambda row: (row["val_accuracy"], row["epoch"]))
        self._shelf.tidy(self._trial, best_epoch=best["epoch"])

    def _resume(
        self, configuration: Configuration, device: torch.device
    ) -> tuple[Training, list[dict[str, Any]]]:
        """Return the training where it was left, and the metrics of every epoch by then."""
        shelf, trial, last = self._shelf, self._trial, int(self._config["from_epoch"])
        there = list(shelf.sizes(trial))
        useless: list[str] = []
        if last and not there:
            useless.append(f"no checkpoint is left in {shelf.place}/{trial_name(trial)}")
        elif there and there[0] < last:
            useless.append(f"{shelf.name(trial, last)} is gone")
        for epoch in there:
            name = shelf.name(trial, epoch)
            try:
                with shelf.reading(trial, epoch) as path:
                    training, written = load_checkpoint(path, device)
                if training.configuration == configuration and training.epoch == epoch:
                    self._say(useless, f"went on from epoch {epoch}")
                    return training, list(written["epochs"])
                useless.append(f"{name} is of another training")
            except CheckpointError as error:
                if _will_pass(error):
                    raise  # the file may be sound
                useless.append(str(error).replace(str(path), name))
            except (FileNotFoundError, IsADirectoryError):  # from another machine's shelf
                useless.append(f"{name} is gone")
            # Newer than all that will be written now, it would be taken for the last one.
            shelf.discard(trial, epoch)
        self._say(useless, "started again from its first epoch")
        mean, std = self._pixels
        training = Training.start(
            configuration,
            self._images[0].shape,
            mean=mean,
            std=std,
            seed=int(self._config["seed"]),
            device=device,
        )
        return training, []

    def _say(self, useless: list[str], consequence: str) -> None:
        if useless:
            self._remark = f"{'; '.join(useless)}; it {consequence}"


def fetched(images: LabelledImages | list[Any]) -> LabelledImages:
    """Return images; those of a cluster come as a list of one reference to them."""
    return ray.get(images[0]) if isinstance(images, list) else images


def _will_pass(error: CheckpointError) -> bool:
    """Return whether a checkpoint could not be read for a reason that is not its own."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return not isinstance(cause, FileNotFoundError | IsADirectoryError)
    return of_error(error).kind != "bug" or _is_of_gpu(error)


def _is_of_gpu(error: BaseException) -> bool:
    """Return whether a GPU failed, after which a process can do nothing more with it."""
    causes = (error, error.__cause__)
    return any(type(e).__name__ == "AcceleratorError" or "CUDA error" in str(e) for e in causes)
