"""What the slots of a search did, by the study's record: train, validate, and neither.

A slot is shown as a worker process, by node and pid: one that died and its successor are two; the
shares of all are of as many slots as were held at once. An epoch that was trained twice counts
once, as the record has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.epoch_images import trained_images
from search.record.record import EpochRow
from search.record.study import open_study

PARTS = ("training", "validation", "starting", "between epochs", "waiting")
"""`starting`: from being handed out to the first epoch. `between epochs`: checkpoint, report and
verdict. `waiting`: no trial, among it the start of Ray and its end."""


def slot_time(folder: Path) -> dict[str, Any]:
    """Return for each slot, and for all, the seconds of each part and the search's wall seconds.

    Raises:
        StudyError: There is no study, or none that can be read.
        ValueError: It has trained nothing, or its record does not say on how many images.
    """
    study = open_study(folder)
    images = (study.noted("data") or {}).get("train_images")
    attempts = [a for a in study.record.attempts() if a["pid"] is not None]
    if not attempts or images is None:
        raise ValueError(f"{folder} has no epoch on record; give a study that has searched")
    epochs: dict[tuple[int, int], list[EpochRow]] = defaultdict(list)
    for row in study.record.epochs():
        epochs[row.trial, row.attempt].append(row)
    seen = {
        trial.number: trained_images(images, trial.configuration["training"]["batch_size"])
        for trial in study.trials()
        if trial.configuration is not None
    }
    searches = [s for s in study.sessions.all() if s["stage"] == "search"]
    wall = study.sessions.spent_seconds("search")
    slots: dict[str, dict[str, float]] = {}
    for attempt in attempts:
        name = f"{attempt['node']} {attempt['pid']}"
        found = slots.setdefault(name, dict.fromkeys(PARTS, 0.0) | {"trials": 0, "epochs": 0})
        rows = epochs[attempt["trial"], attempt["attempt"]]
        end = attempt["ended_at"] or _end(searches, attempt["started_at"])
        for part, seconds in _of_attempt(attempt, rows, seen[attempt["trial"]], end).items():
            found[part] += seconds
        found["trials"] += 1
        found["epochs"] += len(rows)
    for found in slots.values():
        found["waiting"] = max(0.0, wall - sum(found[part] for part in PARTS))
    count = _most_at_once(attempts)
    share = {p: sum(f[p] for f in slots.values()) / (count * wall) for p in PARTS[:-1]}
    return {
        "study": study.name,
        "wall_seconds": wall,
        "slots": slots,
        "slots_at_once": count,
        "share": share | {"waiting": max(0.0, 1 - sum(share.values()))},
    }


def _end(searches: Sequence[Mapping[str, Any]], started_at: float) -> float:
    """Return when the search ended in which an attempt began that its driver did not end."""
    search = [s for s in searches if s["started_at"] <= started_at][-1]
    return float(search["ended_at"] or search["seen_at"])


def _most_at_once(attempts: Sequence[Mapping[str, Any]]) -> int:
    steps = [(a["started_at"], 1) for a in attempts]
    steps += [(a["ended_at"], -1) for a in attempts if a["ended_at"]]
    return max(accumulate(step for _, step in sorted(steps)))


def _of_attempt(
    attempt: Mapping[str, Any], rows: Sequence[EpochRow], seen: int, end: float
) -> dict[str, float]:
    held = max(0.0, end - attempt["started_at"])
    timed = [row for row in rows if row.seconds is not None and row.images_per_second]
    training = sum(seen / (row.images_per_second or 1.0) for row in timed)
    both = sum(row.seconds or 0.0 for row in timed)
    starting = held
    if timed:
        # The record has an epoch when its report has come: that of the first counts as starting.
        first = min(timed, key=lambda row: row.at)
        starting = max(0.0, first.at - (first.seconds or 0.0) - attempt["started_at"])
    return {
        "training": training,
        "validation": both - training,
        "starting": starting,
        "between epochs": max(0.0, held - both - starting),
    }
