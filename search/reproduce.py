"""Train a trial again in this process, without Ray: to see an error where it happens.

Nothing of the study changes: no checkpoint is read or written, no epoch is recorded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import torch

from data.loader import as_tensors
from model.cnn import pixel_statistics
from model.config import Configuration
from model.train import EpochMetrics, Training, fit
from search.explain.explain import find_trial
from search.machine.slots import pick_device, plan_slots
from search.record.dataset import StudyImages
from search.record.study import Study, StudyError, Trial
from search.run import reopen_images
from search.seeds import derive_seed
from search.words import describe_network, percent


def reproduce(study: Study, wanted: str, epochs: int | None, say: Callable[[str], None]) -> bool:
    """Train the trial that `wanted` names from its first epoch, with the same seed and images.

    Returns whether it came to its end; an error of the training is told with its traceback.

    Args:
        study: Its study.
        wanted: `t0017`, or `17`.
        epochs: Train for so many at most; None for all.
        say: Is told every epoch, on one line.

    Raises:
        StudyError: There is no such trial, or it has no configuration.
    """
    trial = find_trial(study, study.trials(), wanted)
    if trial.configuration is None:
        raise StudyError(f"{trial.name} makes no network: {trial.refusal}")
    images = reopen_images(study)
    slots = plan_slots(study.config.resources)
    torch.set_num_threads(slots.threads)
    device = pick_device(slots.gpus)
    configuration = Configuration.from_dict(trial.configuration)
    say(f"{trial.name}: {describe_network(trial.configuration)}")
    try:
        for metrics in _train(study, trial, configuration, images, device, epochs):
            text = f"epoch {metrics.epoch}: loss {metrics.train_loss:.4f}"
            say(f"{text}, validation {percent(metrics.val_accuracy)}{_compared(trial, metrics)}")
    except Exception:  # the very thing that is asked for
        say(traceback.format_exc().rstrip())
        return False
    say(f"{trial.name} has trained without an error")
    return True


def _train(
    study: Study,
    trial: Trial,
    configuration: Configuration,
    images: StudyImages,
    device: torch.device,
    epochs: int | None,
) -> Iterator[EpochMetrics]:
    mean, std = pixel_statistics(as_tensors(images.train, "cpu")[0])
    training = Training.start(
        configuration,
        images.train.shape,
        mean=mean,
        std=std,
        seed=derive_seed(study.config.seed, "trial", trial.number),
        device=device,
    )
    train, validation = as_tensors(images.train, device), as_tensors(images.validation, device)
    whole = configuration.training.epochs
    yield from fit(training, train, validation, until=min(epochs or whole, whole))


def _compared(trial: Trial, metrics: EpochMetrics) -> str:
    then = {row.epoch: row.val_accuracy for row in trial.epochs}.get(metrics.epoch)
    if then is None:
        return ""
    return " (as recorded)" if then == metrics.val_accuracy else f" (recorded: {percent(then)})"
