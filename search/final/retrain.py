"""After the search: train the chosen configuration, and the baselines, on all training images.

Fresh seeds, the same schedule. Test images are not touched here: see `search.final.look`.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import Configuration
from search.final.finalists import winner_of
from search.final.training import FinalModel, Progress, train_models
from search.record.dataset import StudyImages
from search.record.final_metrics import write_metrics
from search.record.study import Study, StudyError
from search.seeds import derive_seed

if TYPE_CHECKING:
    from search.engine.cluster import Cluster


def plan_final_models(study: Study) -> list[FinalModel]:
    """Return the networks to retrain: the chosen configuration and the baselines, by seed.

    Raises:
        StudyError: No trial has a value yet.
    """
    config = study.config
    chosen, epochs = winner_of(study)
    winner = Configuration.from_dict(chosen.configuration or {})
    groups = [("winner", winner, epochs, config.final.seeds)]
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
    chosen, _ = winner_of(study)
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    diverged: list[dict[str, Any]] = []
    # Closed at once where this is broken off: its processes are ended then.
    with closing(train_models(study.config, models, folder, images, progress, cluster)) as outcomes:
        for model, outcome in outcomes:
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
    if not any(row["group"] == "winner" for row in rows):
        raise StudyError(f"every seed of {chosen.name} diverged: {diverged}; search on with resume")
    order = [model.name for model in models]
    rows.sort(key=lambda row: order.index(row["name"]))
    content = {"winner_trial": chosen.name, "models": rows, "diverged": diverged}
    write_metrics(folder, content)
