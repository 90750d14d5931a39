"""The finalists: the best few trials of the search, and the baselines, trained again and raced.

The search's best value is the highest of many, so it is too high, and the trial that has it need
not be the best. Finalists are trained with fresh seeds on redrawn splits of the training images,
for as many epochs as the retrain would give them, and measured at the end, once. Test images are
not touched here. What was trained is in the record (`race`) after each training, so that a race
that was interrupted goes on.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import Configuration
from search.final.belief import optimism
from search.final.race import MIN_ROUNDS, Entrant, Verdict, judge
from search.final.training import FinalModel, Progress, train_models
from search.record.dataset import StudyImages
from search.record.study import Study, StudyError, Trial, best_of
from search.seeds import derive_seed

if TYPE_CHECKING:
    from search.engine.cluster import Cluster

RACE = "race"
"""What the record calls the race."""
_NO_VALUE = (
    "{0} has no trial with a value yet: go on with `resume {0}`, or, where its budget was spent"
    " before an epoch ended, give it more: `extend {0} --minutes +10`"
)
_Values = dict[str, list[float | None]]


def best_length(trial: Trial) -> int:
    """Return for how many epochs a configuration is retrained.

    The best epoch of a trial that ran to the end of its schedule; the whole schedule for one that
    was stopped, since its later epochs are unknown.
    """
    if trial.outcome == "complete" and trial.best_epoch is not None:
        return trial.best_epoch
    return trial.max_epochs


def winner_of(study: Study) -> tuple[Trial, int]:
    """Return the trial whose configuration is retrained, and for how many epochs.

    The one that the race has chosen; the best of the search where there is no race, or none yet
    between the finalists that there are now.

    Raises:
        StudyError: No trial has a value yet.
    """
    trials = study.trials()
    if is_raced(study):
        race = study.noted(RACE)
        chosen = next(row for row in race["candidates"] if row["name"] == race["chosen"])
        return next(t for t in trials if t.name == chosen["trial"]), int(chosen["epochs"])
    best = best_of(trials)
    if best is None or best.configuration is None:
        raise StudyError(_NO_VALUE.format(study.name))
    return best, best_length(best)


def entrants_of(study: Study) -> list[Entrant]:
    """Return who is raced: the best trials, no configuration twice, and the study's baselines.

    A baseline that is the best of all is raced in any case, and one that was trained again for
    longer is a baseline still.
    """
    final, trials = study.config.final, study.trials()
    by_name, best = {trial.name: trial for trial in trials}, best_of(trials)
    found, known = list[Entrant](), set[str]()
    for trial in sorted((t for t in trials if t.can_win), key=lambda t: t.merit):
        baseline = _baseline_of(trial, by_name)
        if baseline and not final.race_baselines and trial is not best:
            continue
        if not baseline and sum(e.kind == "finalist" for e in found) >= final.finalists:
            continue
        key = baseline or json.dumps(trial.configuration, sort_keys=True)
        if key in known:
            continue
        known.add(key)
        found.append(
            Entrant(
                name=baseline or trial.name,
                kind="baseline" if baseline else "finalist",
                trial=trial.name,
                parameters=trial.parameters or 0,
                # A baseline as it is retrained; others by what the search has seen of them.
                epochs=trial.max_epochs if baseline else best_length(trial),
                search_value=trial.value or 0.0,
                search_epochs=trial.best_epoch or 0,
            )
        )
    return found


def _baseline_of(trial: Trial, by_name: Mapping[str, Trial]) -> str:
    """Return the baseline that a trial is, also where it is one "again"; empty for others."""
    while (first := trial.origin.partition(" again")[0]) in by_name:
        trial = by_name[first]
    name = trial.origin.removeprefix("baseline ")
    return name if name != trial.origin else ""


def is_raced(study: Study) -> bool:
    """Return whether a race has ended between the very finalists that there are now."""
    race = study.noted(RACE)
    if not study.config.final.finalists or not race or not race["ended"]:
        return False
    if race["max_rounds"] != study.config.final.rounds:
        return False
    raced = [(row["name"], row["trial"], row["epochs"]) for row in race["candidates"]]
    return raced == [(e.name, e.trial, e.epochs) for e in entrants_of(study)]


def race(
    study: Study,
    images: StudyImages,
    say: Callable[[int, int], Progress],
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Train the finalists until it is known, or does not matter, which is best; return the record.

    Args:
        study: Its search has ended.
        images: Of the study; every round holds out as many of them as the search did.
        say: Called with a round and how many there may be; returns what is told of every epoch.
        cluster: To train on; None for this machine.

    Raises:
        StudyError: There is nobody to race, or everybody has diverged.
    """
    entrants = entrants_of(study)
    if not entrants:
        raise StudyError(_NO_VALUE.format(study.name))
    values = _known(study, entrants)
    while True:
        verdict = _judge(study, images, entrants, values)
        if verdict is None and all(values.values()):
            raise StudyError("every finalist diverged in the race; search on with `extend`")
        _write(study, images, entrants, values, verdict)
        if verdict is not None and verdict.ended:
            return study.noted(RACE)  # type: ignore[no-any-return]
        done = 0 if verdict is None else verdict.rounds
        target = max(MIN_ROUNDS, done + 1)
        alive = [e for e in entrants if verdict is None or e.name in verdict.alive]
        models = [
            (entrant, number, _model(study, images, entrant, number))
            # The first rounds need no judgement between them, and fill all slots together.
            for number in range(done, target)
            for entrant in alive
            if len(values[entrant.name]) <= number
        ]
        progress = say(target, study.config.final.rounds)
        for row in _trained(study, images, values, models, progress, cluster):
            _write(study, images, entrants, row, None)


def _trained(
    study: Study,
    images: StudyImages,
    values: _Values,
    models: list[tuple[Entrant, int, FinalModel]],
    progress: Progress,
    cluster: Cluster | None,
) -> Generator[_Values, None, None]:
    """Fill the values in, and yield them after each training."""
    of = {model.name: (entrant.name, number) for entrant, number, model in models}
    found: dict[tuple[str, int], float | None] = {}
    networks = [model for _, _, model in models]
    with closing(
        train_models(study.config, networks, Path(), images, progress, cluster)
    ) as outcomes:
        for model, outcome in outcomes:
            value = outcome.get("val_accuracy")
            usable = value is not None and math.isfinite(value)
            found[of[model.name]] = value if usable else None
            # Rounds in their order: one that overtook the one before waits for it.
            for name, row in values.items():
                while (name, len(row)) in found:
                    row.append(found.pop((name, len(row))))
            yield values


def _model(study: Study, images: StudyImages, entrant: Entrant, number: int) -> FinalModel:
    trial = study.trial(int(entrant.trial[1:]))
    return FinalModel(
        name=f"{entrant.name}-r{number + 1}",
        group=entrant.name,
        configuration=Configuration.from_dict(trial.configuration or {}),
        epochs=entrant.epochs,
        seed=derive_seed(study.config.seed, "race", number),
        held_out=len(images.validation_indices),
        split_seed=derive_seed(study.config.seed, "race split", number),
    )


def _judge(
    study: Study, images: StudyImages, entrants: list[Entrant], values: _Values
) -> Verdict | None:
    return judge(
        entrants,
        values,
        max_rounds=study.config.final.rounds,
        **_sizes(images),
    )


def _sizes(images: StudyImages) -> dict[str, int]:
    """Return how many images a round holds out and trains on, as statistics and record say it."""
    return {
        "validation_images": len(images.validation_indices),
        "train_images": len(images.train_indices),
    }


def _known(study: Study, entrants: list[Entrant]) -> _Values:
    """Return what was measured before: an extended study has some of its finalists still."""
    rows = (study.noted(RACE) or {"candidates": []})["candidates"]
    known = {(row["trial"], row["epochs"]): row["values"] for row in rows}
    return {e.name: list(known.get((e.trial, e.epochs), [])) for e in entrants}


def _write(
    study: Study,
    images: StudyImages,
    entrants: list[Entrant],
    values: _Values,
    verdict: Verdict | None,
) -> None:
    sizes = _sizes(images)
    rows = [_row(entrant, values[entrant.name], verdict) for entrant in entrants]
    best = min(entrants, key=lambda e: -e.search_value)
    told = optimism(values, best.name, best.search_value, **sizes)
    study.note(
        RACE,
        {
            "candidates": rows,
            "rounds": verdict.rounds if verdict else 0,
            "max_rounds": study.config.final.rounds,
            "ended": verdict.ended if verdict else "",
            "leader": verdict.leader if verdict else None,
            "chosen": verdict.chosen if verdict else None,
            "reason": verdict.reason if verdict else "",
            "optimism": told if best.epochs == best.search_epochs else None,
            **sizes,
        },
    )


def _row(entrant: Entrant, values: list[float | None], verdict: Verdict | None) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    spread = statistics.stdev(known) if len(known) > 1 else None
    left = verdict.left.get(entrant.name) if verdict else None
    return {
        "name": entrant.name,
        "kind": entrant.kind,
        "trial": entrant.trial,
        "parameters": entrant.parameters,
        "epochs": entrant.epochs,
        "search_value": entrant.search_value,
        "search_epochs": entrant.search_epochs,
        "values": values,
        "mean": mean,
        "sd": spread,
        "se": None if spread is None else spread / math.sqrt(len(known)),
        "adjusted_mean": verdict.means.get(entrant.name) if verdict else None,
        "p_best": verdict.p_best.get(entrant.name) if verdict else None,
        # Of a trial that was stopped early the search saw less training: nothing to compare.
        "optimism": None
        if mean is None or entrant.search_epochs != entrant.epochs
        else entrant.search_value - mean,
        "left_after": left[0] if left else None,
        "why_left": left[1] if left else "",
    }
