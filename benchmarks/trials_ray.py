"""Trials of one configuration through Ray: ours as `run` does it, and the stock trial.

Run by `trials.py`, every search in a process of its own; the answer is the last line printed. The
wall time is from when Ray is up until the last trial is over.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.trials_study import configuration_of, study_config
from search.config.config import StudyConfig
from search.machine.slots import available_cpus

NICENESS = {"RAY_worker_niceness": "0"}  # Ray's own default is 15; ours is 0, so for both


def ours(config: StudyConfig, folder: Path) -> dict[str, Any]:
    """Search as the command `run` does, and return what the trials took and gave."""
    from search.engine.place import set_up_here

    set_up_here()
    from benchmarks.trials_worker import STARTS, TimedWorker
    from search.engine import trial as engine_trial
    from search.engine import tuner
    from search.run import new_study, search

    os.environ[STARTS] = str(folder / "starts")
    marks: list[float] = []

    def marked(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            marks.append(time.time())
            made = call(*args)
            marks.append(time.time())
            return made

        return inner

    study, images = new_study(config, folder, "quiet")
    begun = time.time()
    with ExitStack() as stack:
        stack.enter_context(patch.object(engine_trial, "TrialWorker", TimedWorker))
        # The first thing that is done with a Ray that is up, and the last.
        stack.enter_context(patch.object(tuner, "_trainable", marked(tuner._trainable)))
        stack.enter_context(patch.object(tuner, "_fit", marked(tuner._fit)))
        search(study, images, "quiet")
    trials = study.trials()
    if [t.outcome for t in trials] != ["complete"] * (config.budget.trials or 0):
        raise RuntimeError(
            f"not all trials are complete: {[(t.outcome, t.reason) for t in trials]}"
        )
    between = [
        after.at - before.at - (after.seconds or 0.0)
        for trial in trials
        for before, after in zip(trial.epochs, trial.epochs[1:], strict=False)
    ]
    handed_out = {a["trial"]: float(a["started_at"]) for a in study.record.attempts()}
    return {
        "who": "ours",
        "trials": len(trials),
        "seconds": marks[-1] - marks[0],
        "with_ray_seconds": time.time() - begun,
        "accuracies": [t.epochs[-1].val_accuracy for t in trials],
        "between_epochs": between,
        "starts": _starts(folder / "starts", handed_out),
    }


def stock(config: StudyConfig, folder: Path, workers: int) -> dict[str, Any]:
    """Run the stock trial as often, every one in a process of its own."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"} | NICENESS
    import ray
    from ray import tune

    from data.loader import as_tensors
    from model.cnn import pixel_statistics
    from search.record.dataset import load_images

    images, slots = load_images(config.data), available_cpus()
    trials = config.budget.trials or 0
    begun = time.time()
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    started = time.time()
    mean, std = pixel_statistics(as_tensors(images.train, "cpu")[0])
    searcher = _seeds(config.seed, folder / "handed-out")
    trainable = tune.with_parameters(
        _train,
        configuration=configuration_of(config).to_dict(),
        images=(images.train, images.validation),
        pixels=(mean, std),
        workers=workers,
        starts=str(folder / "starts"),
    )
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=trials, max_concurrent_trials=slots
        ),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    seconds = time.time() - started
    ray.shutdown()
    if results.num_errors or len(results) != trials:
        raise RuntimeError(f"{results.num_errors} of {len(results)} trials have failed")
    accuracies, between = list[float](), list[float]()
    for index in range(trials):
        frame = results[index].metrics_dataframe
        assert frame is not None
        accuracies.append(float(frame["val_accuracy"].iloc[-1]))
        between += map(float, frame["report_seconds"][1:])
    return {
        "who": "stock",
        "trials": trials,
        "seconds": seconds,
        "with_ray_seconds": time.time() - begun,
        "accuracies": accuracies,
        "between_epochs": between,
        "starts": _starts(folder / "starts", _noted(folder / "handed-out")),
    }


def _train(
    config: dict[str, Any],
    *,
    configuration: dict[str, Any],
    images: tuple[Any, Any],
    pixels: tuple[Any, Any],
    workers: int,
    starts: str,
) -> None:
    """Train one trial and report every epoch: Ray's function trainable."""
    import torch
    from ray import tune

    from benchmarks.stock_trial import train
    from benchmarks.trials_study import note
    from model.config import Configuration

    torch.set_num_threads(1)
    took, trial = 0.0, config["trial"]
    for row in train(
        Configuration.from_dict(configuration),
        *images,
        *pixels,
        config["seed"],
        workers=workers,
        begun=lambda: note(starts, trial),
    ):
        begun = time.perf_counter()
        tune.report(row | {"report_seconds": took})  # of the report before this one
        took = time.perf_counter() - begun


def _seeds(seed: int, handed_out: Path) -> Any:
    """Return a searcher that gives each trial a number and a seed, and writes down when."""
    from ray.tune.search import Searcher

    from benchmarks.trials_study import note

    class Seeds(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="val_accuracy", mode="max")
            self._trials = 0

        def suggest(self, trial_id: str) -> dict[str, Any]:
            trial, self._trials = self._trials, self._trials + 1
            note(str(handed_out), trial)
            return {"trial": trial, "seed": 1000 * seed + trial}

        def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return Seeds()


def _noted(place: Path) -> dict[int, float]:
    lines = map(json.loads, place.read_text(encoding="ascii").splitlines())
    return {trial: at for trial, _, at in lines}


def _starts(place: Path, handed_out: dict[int, float]) -> list[dict[str, Any]]:
    """Return, in order, how long each trial took from being handed out to its first batch.

    `first`: whether it was among the first on the slots, for which all that Ray starts is new.
    """
    begun, slots = _noted(place), available_cpus()
    order = sorted(handed_out, key=lambda trial: handed_out[trial])
    return [
        {"seconds": begun[trial] - handed_out[trial], "first": place < slots}
        for place, trial in enumerate(order)
    ]


def main() -> None:
    """Run what the one argument (JSON) says and print the answer."""
    given = json.loads(sys.argv[1])
    who, workers = given.pop("who"), given.pop("workers")
    config = study_config(**given)
    # Both from one folder that is as good as another: Ray keeps results there, ours its record.
    with tempfile.TemporaryDirectory(prefix="trials-") as place:
        run = ours(config, Path(place)) if who == "ours" else stock(config, Path(place), workers)
    print(json.dumps(run))


if __name__ == "__main__":
    main()
