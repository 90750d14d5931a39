"""The stock search: Ray Tune with OptunaSearch and ASHAScheduler, as Ray's own guide puts them.

https://docs.ray.io/en/latest/tune/examples/optuna_example.html and tune-pytorch-cifar: a function
trainable that reports every epoch, one process a trial, defaults everywhere. Only what is trained
is ours: the same images, the same networks, the same loop. Run as a process of its own by
`benchmarks/real_search.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

from search.config.config import StudyConfig
from search.config.config_file import load_config
from search.config.space import Space
from search.record.dataset import load_images


def train_trial(config: dict[str, Any], *, study: dict[str, Any], seed: int, data: Any) -> None:
    """Train one configuration and report the validation accuracy of every epoch."""
    import torch
    from ray import tune

    from data.loader import as_tensors
    from model.cnn import pixel_statistics
    from model.train import Training, fit

    torch.set_num_threads(1)
    space = StudyConfig.model_validate(study).search_space()
    train = as_tensors(data.train, "cpu")
    mean, std = pixel_statistics(train[0])
    training = Training.start(
        space.configuration(config), data.train.shape, mean=mean, std=std, seed=seed, device="cpu"
    )
    for metrics in fit(training, train, as_tensors(data.validation, "cpu")):
        tune.report({"val_accuracy": metrics.val_accuracy})


def suggest(space: Space, trial: Any) -> None:
    """Ask for the parameters of the space, define-by-run.

    At the module's level, because OptunaSearch pickles it.
    """
    space.suggest(trial)


def main() -> None:
    """Search for a number of seconds and write the best value after every result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import numpy as np
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from search.machine.slots import available_cpus

    np.random.seed(options.seed)
    config = load_config(options.config)
    data = load_images(config.data)
    slots = available_cpus()
    begun = time.time()
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)

    trainable = tune.with_parameters(
        train_trial, study=config.model_dump(mode="json"), seed=options.seed, data=data
    )
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space=partial(suggest, config.search_space()),
                metric="val_accuracy",
                mode="max",
                seed=options.seed,
            ),
            max_concurrent_trials=slots,
            scheduler=ASHAScheduler(metric="val_accuracy", mode="max", max_t=config.max_epochs),
            num_samples=-1,
            time_budget_s=options.seconds,
        ),
        run_config=tune.RunConfig(
            name="stock", storage_path=str(options.out.parent / "stock"), verbose=0
        ),
    ).fit()
    values = []
    for index in range(len(results)):
        frame = results[index].metrics_dataframe
        if frame is not None and "val_accuracy" in frame:  # not one that ended in its first epoch
            values += list(zip(frame["timestamp"], frame["val_accuracy"], strict=True))
    course = [[at - begun, value] for at, value in sorted(values)]
    answer = {"trials": len(results), "epochs": len(course), "course": course}
    options.out.write_text(json.dumps(answer) + "\n", encoding="utf-8")
    ray.shutdown()


if __name__ == "__main__":
    main()
