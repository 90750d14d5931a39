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
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from data.images import LabelledImages
from data.loader import as_tensors
from model.cnn import pixel_statistics
from search.assignment import Observer
from search.driver import Driver
from search.record import Record
from search.slots import plan_slots, worker_environment
from search.study import Study

_SEEN_SECONDS = 5.0
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
    os.environ |= _SETTINGS | worker_environment()
    import ray
    from ray import tune

    from search.bridge import DriverScheduler, DriverSearcher, stop_on_signals
    from search.trial import TrialWorker

    share = slots.gpus or slots.threads
    study.note("share", share)  # for those who count device-hours from the record
    driver = Driver(study, shape=train.shape, slots=slots.count, share=share, observers=observers)
    searcher = DriverSearcher(driver)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("ray").setLevel(logging.ERROR)
    session = study.record.start_session("search", host=platform.node(), pid=os.getpid())
    study.set_state("searching")
    scratch_folder = tempfile.TemporaryDirectory(prefix="fashion-search-")
    with scratch_folder as scratch, _seen_alive(study.record):
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
                    gpus=slots.gpus,
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


@contextmanager
def _seen_alive(record: Record) -> Iterator[None]:
    """Record every few seconds that the search goes on: also while Ray starts or an epoch lasts."""
    over = threading.Event()

    def see() -> None:
        with suppress(SQLAlchemyError):  # the driver meets it too, and says so
            while not over.wait(_SEEN_SECONDS):
                record.see()

    thread = threading.Thread(target=see, name="seen alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _object_store_bytes(*images: LabelledImages) -> int:
    # The images once per node, and room for Ray's own traffic. Ray's floor is 75 MiB.
    return sum(part.images.nbytes + part.labels.nbytes for part in images) + (200 << 20)
