"""A search without training, for tests of where its record is kept."""

from __future__ import annotations

from typing import Any

from data.images import ImageShape
from model.train import EpochMetrics
from search.drive.driver import Driver
from search.record.study import Study
from search.seeds import derive_seed

FACTS: dict[str, Any] = {
    "data": {
        "name": "drawn",
        "classes": [f"class {n}" for n in range(10)],
        **{"channels": 1, "height": 28, "width": 28},
    }
}
SEARCH: dict[str, Any] = {"asha": {"form": "promotion"}, "budget": {"trials": 14}}


def search_on(study: Study, *, epochs: int = 10**9) -> Study:
    """Search with one slot, to the end or for so many epochs; return the study."""
    shape = ImageShape(channels=1, height=28, width=28, num_classes=10)
    driver = Driver(study, shape=shape, slots=1)
    while (assignment := driver.next()) is not None:
        epoch, action = assignment.from_epoch, "continue"
        while action == "continue":
            if (epochs := epochs - 1) < 0:
                return study
            epoch += 1
            luck = derive_seed(epoch, assignment.configuration.key()) / 2**31
            metrics = EpochMetrics(
                epoch=epoch,
                train_loss=0.5,
                train_accuracy=0.8,
                val_loss=0.6,
                val_accuracy=(0.5 + 0.4 * luck) * (1 - 0.5**epoch),
                learning_rate=0.1,
                images_per_second=1000.0,
                seconds=1.5,
            )
            action = driver.on_epoch(assignment.trial, metrics).action
    return study


def told(study: Study) -> tuple[list[Any], ...]:
    """Return what a search did: trials, events and decisions, without clocks and keys."""
    trials = [
        {
            "params": trial.params,
            "values": (trial.state, trial.values, trial.intermediate_values),
            "noted": {k: v for k, v in trial.user_attrs.items() if "seconds" not in k},
        }
        for trial in study.optuna.get_trials()
    ]
    record = study.record
    events = [(e.kind, e.trial, e.epoch, e.value, e.outcome, e.reason) for e in record.events()]
    rest = ("id", "event", "at")
    decisions = [{k: v for k, v in d.items() if k not in rest} for d in record.decisions()]
    return trials, events, decisions
