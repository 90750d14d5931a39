"""After the search: train the best configuration, and the baselines, on all training images.

Fresh seeds, the same schedule; in worker processes of this machine, without Ray, or as tasks of a
cluster. Test images are not touched here: see `search.final.look`.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import Configuration
from search.final.training import FinalModel, Progress, train_here, train_there
from search.record.dataset import StudyImages
from search.record.final_metrics import write_metrics
from search.record.study import Study, StudyError, Trial, best_of
from search.seeds import derive_seed

if TYPE_CHECKING:
    from search.engine.cluster import Cluster


def best_length(trial: Trial) -> int:
    """Return for how many epochs a configuration is retrained.

    The best epoch of a trial that ran to the end of its schedule; the whole schedule for one that
    was stopped, since its later epochs are unknown.
    """
    if trial.outcome == "complete" and trial.best_epoch is not None:
        return trial.best_epoch
    return trial.max_epochs


def plan_final_models(study: Study) -> list[FinalModel]:
    """Return the networks to retrain: the best configuration and the baselines, by seed.

    Raises:
        StudyError: No trial has a value yet.
    """
    config = study.config
    best = best_of(study.trials())
    if best is None or best.configuration is None:
        raise StudyError(f"{study.name} has no trial with a value yet; run the search first")
    winner = Configuration.from_dict(best.configuration)
    groups = [("winner", winner, best_length(best), config.final.seeds)]
    groups += [
        (name, configuration, config.max_epochs, config.final.baseline_seeds)
        for name, configuration in config.baseline_configurations().items()
    ]
    return [
        FinalModel(
            name=f"{group}-s{index}",
            group=group,
            configuration=configuration,
            epochs=epochs,
            seed=derive_seed(config.seed, "final", group, index),
        )
        for group, configuration, epochs, seeds in groups
        for index in range(seeds)
    ]


def retrain(
    study: Study,
    folder: Path,
    images: StudyImages,
    progress: Progress,
    cluster: Cluster | None = None,
) -> None:
    """Train every final model and save it under `folder`, with metrics.json beside them.

    A training that diverges is recorded and left out.

    Raises:
        StudyError: There is nothing to retrain, the images have changed meanwhile, every winner
            diverged, or a worker process died.
    """
    models = plan_final_models(study)
    best = best_of(study.trials())
    assert best is not None
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    diverged: list[dict[str, Any]] = []
    try:
        # Closed at once where this is broken off: its processes are ended then.
        if cluster is None:
            trained = train_here(study.config, models, folder, progress)
        else:
            trained = train_there(cluster, study.config, models, folder, images, progress)
        with closing(trained) as outcomes:
            for model, outcome in outcomes:
                if outcome.pop("fingerprint") != images.fingerprint:
                    raise StudyError("the images changed while they were trained on; retrain again")
                if "diverged_at" in outcome:
                    diverged.append({"name": model.name, "epoch": outcome["diverged_at"]})
                    continue
                described: dict[str, Any] = {"name": model.name, "group": model.group}
                described |= {
                    "seed": model.seed,
                    "epochs": model.epochs,
                    "configuration": model.configuration.to_dict(),
                }
                rows.append(described | outcome)
    except BrokenProcessPool:
        raise StudyError(
            "a retraining process died (out of memory?); give it fewer slots with"
            " --set resources.max_concurrent=1, or free memory, and retrain"
        ) from None
    if not any(row["group"] == "winner" for row in rows):
        raise StudyError(f"every seed of {best.name} diverged: {diverged}; search on with resume")
    order = [model.name for model in models]
    rows.sort(key=lambda row: order.index(row["name"]))
    content = {"winner_trial": best.name, "models": rows, "diverged": diverged}
    write_metrics(folder, content)
