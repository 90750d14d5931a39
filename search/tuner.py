"""Run a search on Ray Tune: start Ray, give Tune our searcher and scheduler, stop Ray.

Ray only executes. Its own checkpoints, loggers and restore are off: the study's record is enough
to go on from.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.images import LabelledImages
from data.loader import as_tensors
from model.cnn import pixel_statistics
from search.assignment import Observer
from search.config import ResourcesSection
from search.driver import Driver
from search.study import Study

CHECKOUT = Path(__file__).parent.parent

_SETTINGS = {
    # Tune's own output, loggers and snapshots: the record and the screen are ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Signals are handled by `search.bridge.stop_on_signals`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AUTH_MODE": "disabled",  # a local Ray listens on loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """How many trials run at a time on this machine, and what each one gets."""

    count: int
    threads: int
    """CPU threads of one trial."""
    gpus: float
    """GPU share of one trial."""


def plan_slots(resources: ResourcesSection) -> Slots:
    """Divide this machine's CPUs and GPUs among trials.

    Raises:
        ValueError: One trial asks for more than the machine has.
    """
    cpus, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    threads = resources.cpus_per_trial
    if threads > cpus:
        raise ValueError(
            f"`resources.cpus_per_trial` is {threads}, but this machine has {cpus} CPUs"
        )
    share = resources.gpus_per_trial
    if share == "auto":
        share = 0.25 if gpus else 0.0
    if share > gpus:
        raise ValueError(
            f"`resources.gpus_per_trial` is {share:g}, but this machine has {gpus} GPUs; set it"
            " to 0 or auto"
        )
    count = cpus // threads
    if share > 0:
        # A share lies on one GPU: of two GPUs, trials of 0.4 fill two each, not five.
        held = int(1 / share) * gpus if share <= 1 else int(gpus / share)
        count = min(count, held)
    if resources.max_concurrent != "auto":
        count = min(count, resources.max_concurrent)
    return Slots(count=count, threads=threads, gpus=float(share))


def run_search(
    study: Study,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    observers: Sequence[Observer] = (),
) -> Driver:
    """Search until the budget is spent or a signal comes; return the driver as it ended.

    Raises:
        ValueError: The space yields no network that fits, or the machine lacks a resource.
    """
    slots = plan_slots(study.config.resources)
    os.environ |= _SETTINGS
    # Workers import our packages from the checkout, wherever the command was given.
    path = [str(CHECKOUT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    import ray
    from ray import tune

    from search.bridge import DriverScheduler, DriverSearcher, stop_on_signals
    from search.trial import TrialWorker

    driver = Driver(study, shape=train.shape, slots=slots.count, observers=observers)
    searcher = DriverSearcher(driver)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("ray").setLevel(logging.ERROR)
    session = study.record.start_session("search", host=platform.node(), pid=os.getpid())
    study.set_state("searching")
    with tempfile.TemporaryDirectory(prefix="fashion-search-") as scratch:
        try:
            ray.init(
                address="local",  # never join a cluster that happens to run here
                num_cpus=slots.count * slots.threads,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_object_store_bytes(train, validation),
            )
            stop_on_signals(driver)
            mean, std = pixel_statistics(as_tensors(train, "cpu")[0])
            trainable = tune.with_resources(
                tune.with_parameters(
                    TrialWorker,
                    train=train,
                    validation=validation,
                    pixels=(mean, std),
                    threads=slots.threads,
                ),
                {"cpu": slots.threads, "gpu": slots.gpus},
            )
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=DriverScheduler(driver),
                    num_samples=-1,  # the driver says when it is over
                    max_concurrent_trials=None,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=scratch,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            ).fit()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            ray.shutdown()
            study.record.end_session(session)
            study.set_state("stopped" if driver.interrupted else "searched")
    if searcher.error is not None:
        raise searcher.error
    return driver


def _object_store_bytes(*images: LabelledImages) -> int:
    # The images once per node, and room for Ray's own traffic. Ray's floor is 75 MiB.
    return sum(part.images.nbytes + part.labels.nbytes for part in images) + (200 << 20)
