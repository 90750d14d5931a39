"""Trials of no work through Ray Tune: Ray alone, and our driver with all its records.

What is measured and how: `bookkeeping.py`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.stopwatch import Watch
from data.images import ImageShape
from search.config.config_file import load_config
from search.drive.driver import Driver
from search.drive.keeper import Keeper
from search.drive.tensorboard import Board
from search.prune.assignment import Observer
from search.prune.settle import settle
from search.record.record import Record
from search.record.study import Study, create
from search.screen.progress import Screen

SHAPE = ImageShape(channels=1, height=28, width=28, num_classes=10)
FIGURES = {
    "train_loss": 0.5,
    "train_accuracy": 0.8,
    "val_loss": 0.6,
    "learning_rate": 0.1,
    "images_per_second": 1000.0,
    "seconds": 1.0,
}
"""Of an epoch that was not trained."""
LONGER = 10
"""Epochs of the trials that tell what an epoch costs."""
_BLOCKS = 4  # at most, in the space of the preset


def made_up_study(folder: Path, trials: int, slots: int, *, epochs: int = 1) -> Study:
    """Return a new study of the preset `cluster`'s space: random search, no trial is stopped."""
    overrides = [f"budget={{trials: {trials}}}", "sampler.kind=random", f"max_epochs={epochs}"]
    overrides.append("asha={enabled: false}")
    config = settle(load_config(None, preset="cluster", overrides=overrides), slots=slots)
    return create(config, folder, facts={"data": {"name": "none"}}, environment={})


def through_ray(trials: int, slots: int, rounds: int) -> list[dict[str, Any]]:
    """Run through Ray, in turn: Ray alone, ours, ours watched. Return what each cost."""
    from search.engine.place import set_up_here

    set_up_here()
    from search.engine.local_ray import local_ray
    from search.engine.ray_root import ray_root

    runs: list[dict[str, Any]] = []
    with ray_root() as root:

        def died(name: str) -> None:
            print(f"Ray's {name} has died", file=sys.stderr, flush=True)
            os._exit(1)

        with local_ray(root, cpus=slots, object_store_bytes=200 << 20, died=died):
            # The first to run would pay for the start of the workers' processes.
            _ray_alone(min(trials, 20 * slots), slots, root / "first")
            for number in range(rounds):
                place = root / f"round-{number}"
                runs.append({"who": "Ray alone"} | _ray_alone(trials, slots, place / "ray"))
                runs.append({"who": "ours"} | _ours(trials, slots, place / "ours", []))
                kinds = ["board", "screen", "keeper"]
                runs.append({"who": "ours, watched"} | _ours(trials, slots, place / "all", kinds))
            few = max(1, trials // 10)
            cost = _ray_alone(few, slots, root / "longer", epochs=LONGER)
            runs.append({"who": f"Ray alone, {LONGER} epochs"} | cost)
    return runs


def _nothing() -> Any:
    """Return a trainable that trains nothing and reports what a real one does."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            ours = new_config.get("assignment")
            self._trial = json.loads(ours)["trial"] if ours else new_config["trial"]
            return True

        def step(self) -> dict[str, Any]:
            accuracy = (self._trial * 7919 % 10007) / 10007
            return {
                "trial": self._trial,
                "failure": "",
                "remark": "",
                "metrics": {"epoch": 1, "val_accuracy": accuracy, **FIGURES},
                "node": "node",
                "pid": 1,
            }

    return tune.with_resources(Nothing, {"cpu": 1})


def _ray_alone(trials: int, slots: int, folder: Path, *, epochs: int = 1) -> dict[str, Any]:
    from ray import tune

    space = {f"parameter_{n}": tune.uniform(0.0, 1.0) for n in range(20)}
    tuner = tune.Tuner(
        _nothing(),
        param_space={"trial": tune.randint(0, 10_000), "configuration": space},
        tune_config=tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=slots, reuse_actors=True
        ),
        run_config=_run_config(folder, stop={"training_iteration": epochs}),
    )
    cost, results = _timed(tuner.fit, trials, Watch())
    if results.num_errors or len(results) != trials:
        raise RuntimeError(f"{results.num_errors} of {len(results)} trials have failed")
    return cost


def _ours(trials: int, slots: int, folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    from ray import tune

    from search.engine.bridge import DriverScheduler, DriverSearcher
    from search.engine.hang_watch import HangWatch

    study, asking = made_up_study(folder / "study", trials, slots), Watch()
    with ExitStack() as stack:
        observers: list[Observer] = []
        if "board" in kinds:
            observers.append(Board(study.folder / "trials", max_blocks=_BLOCKS))
        if "screen" in kinds:
            observers.append(stack.enter_context(_unseen(study)))
        if "keeper" in kinds:
            observers.append(Keeper(study, say=lambda text: None))
        study.sessions.start("search", host="here", pid=os.getpid())
        driver = Driver(study, shape=SHAPE, slots=slots, observers=observers)
        stack.enter_context(asking.on(driver._strategy, "propose"))
        searcher = DriverSearcher(driver)
        scheduler = DriverScheduler(driver, searcher)
        watch, inside = HangWatch(driver, scheduler, searcher), Watch()
        stack.enter_context(inside.on(searcher, "suggest", "on_trial_complete"))
        stack.enter_context(inside.on(scheduler, "on_trial_result"))
        stack.enter_context(inside.on(watch, "on_step_end"))
        tuner = tune.Tuner(
            _nothing(),
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=scheduler, num_samples=-1, reuse_actors=True
            ),
            run_config=_run_config(folder, callbacks=[watch]),
        )
        cost, _ = _timed(tuner.fit, trials, asking)
    if searcher.error is not None:
        raise searcher.error
    _check(study.record, trials)
    return cost | {"ours_cpu_ms": 1000 * (inside.cpu - asking.cpu) / trials}


def _unseen(study: Study) -> Screen:
    return Screen(study, verbosity="quiet", console=Console(file=io.StringIO()))


def _run_config(folder: Path, **more: Any) -> Any:
    from ray import tune

    return tune.RunConfig(
        name="search",
        storage_path=str(folder / "tune"),
        verbose=0,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=tune.FailureConfig(max_failures=0),
        **more,
    )


def _timed(run: Callable[[], Any], trials: int, asking: Watch) -> tuple[dict[str, Any], Any]:
    watch, process = Watch(), time.process_time()
    with watch.running():
        made = run()
    cost = {
        "seconds": watch.wall,
        "cpu_ms": 1000 * watch.cpu / trials,
        "wall_ms": 1000 * watch.wall / trials,
        "process_cpu_ms": 1000 * (time.process_time() - process) / trials,
        "ask_cpu_ms": 1000 * asking.cpu / trials,
        "ask_wall_ms": 1000 * asking.wall / trials,
    }
    return cost, made


def _check(record: Record, trials: int) -> None:
    ended = sum(event.outcome == "complete" for event in record.events(kind="ended"))
    if ended != trials:
        raise RuntimeError(f"{ended} of {trials} trials have ended")
