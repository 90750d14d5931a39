"""Run a search on Ray Tune: start Ray, give Tune our searcher and scheduler, stop Ray.

Ray only executes. Its own checkpoints, loggers and restore are off: the study's record is enough
to go on from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.images import LabelledImages
from data.loader import as_tensors
from model.cnn import pixel_statistics
from model.geometry import network_cost
from search.config.baselines import BASELINES
from search.drive.driver import Driver
from search.drive.session import session
from search.engine.guard import SAID, Guard, guarded, leave_record, say_gone
from search.engine.ray_root import LOGS, clear, keep_logs, ray_root, sweep
from search.machine.bench import quick_epoch_seconds
from search.machine.slots import Slots, plan_slots, worker_environment
from search.prune.assignment import Observer
from search.record.study import State, Study

if TYPE_CHECKING:
    from search.engine.bridge import DriverSearcher

_PROBED = 2000  # images
_SETTINGS = {
    # Tune's own output, loggers and snapshots: the record and the screen are ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Signals are handled by `search.drive.session`.
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
    from search.engine.bridge import DriverSearcher
    from search.engine.local_ray import local_ray

    share = slots.gpus or slots.threads
    study.note("share", share)  # for those who count device-hours from the record
    driver = Driver(study, shape=train.shape, slots=slots.count, share=share, observers=observers)
    if study.config.resources.hang_seconds == "auto":
        _probe(driver, study, train, validation, slots)
    searcher = DriverSearcher(driver)
    sweep()
    state: State = "stopped"
    with session(study, "search", stop=driver.stop) as working:
        study.set_state("searching")
        try:
            with (
                ray_root() as root,
                guarded(study, working.number, root) as guard,
                local_ray(
                    root,
                    cpus=slots.count * slots.threads,
                    object_store_bytes=_object_store_bytes(train, validation),
                    died=lambda name: _leave_at_once(name, study, working.number, guard, root),
                ),
            ):
                try:
                    trainable = _trainable(train, validation, slots)
                    _fit(_tuner(trainable, driver, searcher, root / "tune"), searcher)
                    state = "stopped" if driver.interrupted else "searched"
                finally:
                    working.leave()
                    if driver.halted:
                        keep_logs(root, study.folder)
        finally:
            study.set_state(state)
    return driver


def _fit(tuner: Any, searcher: DriverSearcher) -> None:
    """Search, and raise what the driver could not go on for, not what Tune makes of it."""
    try:
        tuner.fit()
    except Exception:
        if searcher.error is None:
            raise
    if searcher.error is not None:
        raise searcher.error


def _probe(
    driver: Driver, study: Study, train: LabelledImages, validation: LabelledImages, slots: Slots
) -> None:
    """Train a baseline for half a second: how long an epoch takes tells who is hung."""
    configuration = next(iter(BASELINES.values())).configuration(study.config.max_epochs)
    try:
        cost = network_cost(configuration.network, train.shape)
    except ValueError:
        return  # no room for it on such images: the first epochs of others will tell
    few = replace(train, images=train.images[:_PROBED], labels=train.labels[:_PROBED])
    with suppress(RuntimeError, MemoryError, OSError):  # what is wrong is told by the trials
        seconds = quick_epoch_seconds(
            configuration,
            few,
            pixel_statistics(as_tensors(few, "cpu")[0]),
            slots.threads,
            slots.gpus,
            train.num_images,
            validation.num_images,
        )
        driver.expect(cost.multiply_adds, seconds)


def _trainable(train: LabelledImages, validation: LabelledImages, slots: Slots) -> Any:
    from ray import tune

    from search.engine.trial import TrialWorker

    return tune.with_resources(
        tune.with_parameters(
            TrialWorker,
            train=train,
            validation=validation,
            pixels=pixel_statistics(as_tensors(train, "cpu")[0]),
            threads=slots.threads,
            gpus=slots.gpus,
        ),
        {"cpu": slots.threads, "gpu": slots.gpus},
    )


def _tuner(trainable: Any, driver: Driver, searcher: DriverSearcher, storage: Path) -> Any:
    from ray import tune

    from search.engine.bridge import DriverScheduler, HangWatch

    scheduler = DriverScheduler(driver, searcher)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the driver says when it is over
            max_concurrent_trials=None,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(storage),
            verbose=0,
            callbacks=[HangWatch(driver, scheduler, searcher)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )


def _leave_at_once(name: str, study: Study, session: int, guard: Guard, root: Path) -> None:
    """End this process, whose Ray has died: what the main thread waits for will never come."""
    guard.tell(SAID)
    say_gone(study.name, f"Ray died (its {name} has ended; see {study.folder / LOGS})")
    with suppress(Exception):  # the record is complete without it
        leave_record(study, session)
    keep_logs(root, study.folder)
    clear(root)
    os._exit(1)


def _object_store_bytes(*images: LabelledImages) -> int:
    # The images once per node, and room for Ray's own traffic. Ray's floor is 75 MiB.
    return sum(part.images.nbytes + part.labels.nbytes for part in images) + (200 << 20)
