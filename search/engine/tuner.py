"""Run a search on Ray Tune: start Ray, give Tune our searcher and scheduler, stop Ray.

Ray only executes. Its own checkpoints, loggers and restore are off: the study's record is enough
to go on from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
from search.drive.shelf import Shelf
from search.engine.guard import SAID, Guard, guarded, leave_record, say_gone
from search.engine.place import set_up_here
from search.engine.ray_root import LOGS, clear, keep_logs, ray_root, sweep
from search.machine.bench import quick_epoch_seconds
from search.machine.slots import Slots
from search.prune.assignment import Observer
from search.record.study import State, Study

if TYPE_CHECKING:
    from search.engine.bridge import DriverSearcher
    from search.engine.cluster import Cluster
    from search.engine.membership import NodeWatch

_PROBED = 2000  # images


def run_search(
    study: Study,
    train: LabelledImages,
    validation: LabelledImages,
    slots: Slots,
    *,
    cluster: Cluster | None = None,
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Driver:
    """Search until the budget is spent or a signal comes; return the driver as it ended.

    Args:
        study: Held by this process.
        train: Images to train on.
        validation: Images to score on.
        slots: The place, divided among trials.
        cluster: Joined, and found fit by `preflight`; None for this machine alone.
        observers: Told of every event.
        say: Told, in a line, what people should know of the cluster.

    Raises:
        ValueError: The space yields no network that fits, the place lacks a resource, or a node
            that has joined is not fit.
    """
    if cluster is None:
        set_up_here()
    from search.engine.bridge import DriverSearcher

    share = slots.gpus or slots.threads
    study.note("share", share)  # for those who count device-hours from the record
    driver = Driver(study, shape=train.shape, slots=slots.count, share=share, observers=observers)
    if study.config.resources.hang_seconds == "auto" and cluster is None:
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
                _ray(cluster, study, working.number, guard, root, slots, (train, validation)),
                _nodes(cluster, driver, searcher, study, train, slots, say) as watch,
            ):
                try:
                    shelf = _shelf(study, cluster, say)
                    trainable = _trainable(train, validation, slots, cluster, shelf)
                    tuner = _tuner(trainable, driver, searcher, root / "tune", watch)
                    _fit(tuner, searcher)
                    state = "stopped" if driver.interrupted else "searched"
                finally:
                    working.leave()
                    if driver.halted and cluster is None:
                        keep_logs(root, study.folder)
        finally:
            study.set_state(state)
    return driver


def _ray(
    cluster: Cluster | None,
    study: Study,
    session: int,
    guard: Guard,
    root: Path,
    slots: Slots,
    images: Sequence[LabelledImages],
) -> AbstractContextManager[None]:
    """Return a Ray of our own, for the length of a block; a cluster's is there already."""
    if cluster is not None:
        return nullcontext()
    from search.engine.local_ray import local_ray

    return local_ray(
        root,
        cpus=slots.count * slots.threads,
        object_store_bytes=_object_store_bytes(*images),
        died=lambda name: _leave_at_once(name, study, session, guard, root),
    )


@contextmanager
def _nodes(
    cluster: Cluster | None,
    driver: Driver,
    searcher: DriverSearcher,
    study: Study,
    images: LabelledImages,
    slots: Slots,
    say: Callable[[str], None],
) -> Iterator[NodeWatch | None]:
    """Follow the nodes of a cluster for the length of a block."""
    if cluster is None:
        yield None
        return
    from search.engine.membership import NodeWatch

    watch = NodeWatch(cluster, driver, searcher, study=study, images=images, slots=slots, say=say)
    try:
        yield watch
    finally:
        watch.end()


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
        driver.flight.patience.saw(cost.multiply_adds, seconds)


def _shelf(study: Study, cluster: Cluster | None, say: Callable[[str], None]) -> Shelf:
    """Return where workers keep checkpoints; the record says it, and who does not expect it."""
    from search.engine.relay import shelf_for

    shelf = shelf_for(study, shared=cluster is None or cluster.shares_runs)
    study.note("shelf", shelf.way)
    if cluster is not None or shelf.far:
        say(shelf.way)
    return shelf


def _trainable(
    train: LabelledImages,
    validation: LabelledImages,
    slots: Slots,
    cluster: Cluster | None,
    shelf: Shelf,
) -> Any:
    from ray import tune

    from search.engine.trial import TrialWorker

    def shared(images: LabelledImages) -> Any:
        # What the preflight has sent to all nodes is there already.
        return images if cluster is None else [cluster.share(images)]

    return tune.with_resources(
        tune.with_parameters(
            TrialWorker,
            train=shared(train),
            validation=shared(validation),
            pixels=pixel_statistics(as_tensors(train, "cpu")[0]),
            shelf=shelf,
            threads=slots.threads,
            gpus=slots.gpus,
        ),
        _resources(slots),
    )


def _resources(slots: Slots) -> Any:
    """Return what Ray is to give each trial."""
    from ray import tune

    from search.engine.trial import ON_CPU, SLOT
    from search.engine.workers import bundle

    def needs(config: dict[str, Any]) -> Any:
        gpus = 0.0 if config[ON_CPU] else slots.gpus
        return tune.PlacementGroupFactory([bundle(slots.threads, gpus, config[SLOT])])

    return needs


def _tuner(
    trainable: Any,
    driver: Driver,
    searcher: DriverSearcher,
    storage: Path,
    watch: NodeWatch | None,
) -> Any:
    from ray import tune
    from ray.train._internal import storage as tune_storage
    from ray.tune.impl.tuner_internal import TunerInternal

    from search.engine.bridge import DriverScheduler
    from search.engine.hang_watch import HangWatch

    scheduler = DriverScheduler(driver, searcher, watch)
    hang = HangWatch(driver, scheduler, searcher, waits_for_nodes=watch is not None)
    if watch is not None:
        watch.on_loss = scheduler.node_lost
        # It asks for the folder of a Ray on this machine, where with Ray Client there is none.
        room: Any = tune_storage
        room._get_ray_train_session_dir = lambda: str(storage)
    # What `tune.Tuner` is made of. That would send all this away where Ray Client is used, and the
    # driver must stay where its study is.
    return TunerInternal(
        trainable=trainable,
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
            callbacks=[hang, watch] if watch else [hang],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
        _tuner_kwargs={"_remote": False},
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
