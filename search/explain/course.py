"""How a trial fared and why it ended, in sentences: rungs, audit, epochs, attempts, end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.explain.audit import audit
from search.prune.asha import Asha
from search.prune.settle import asha_rules, rungs_of
from search.record.lock import is_alive
from search.record.study import Study, Trial
from search.words import last_epoch, percent, plural, span

_MOST_VALUES = 16
_DID = {
    "continue": "went on",
    "stop": "stopped",
    "pause": "paused",
    "promote": "promoted",
    "audit": "drawn for the audit",
}
Row = Mapping[str, Any]


def rung_lines(study: Study, trial: Trial, decisions: Sequence[Row]) -> list[str]:
    """Return what was decided on a trial at each rung."""
    rules, rungs = asha_rules(study.config), rungs_of(study.config)
    if trial.refusal:
        return []
    if not rungs:
        return ["There are none: ASHA is off, or the first one is no shorter than the training."]
    bracket = Asha(rules).bracket_of(trial.number) if rules.brackets > 1 else 0
    first = plural(rungs[min(bracket, len(rungs) - 1)], "epoch")
    lines = []
    if rules.brackets > 1:
        lines.append(f"It was drawn into bracket {bracket}, whose first rung is at {first}.")
    for row in decisions:
        lines.append(_rung_line(row))
    if not decisions:
        lines.append(f"It has not got to one; its first is at {first}.")
    return lines


def _rung_line(row: Row) -> str:
    needed = "" if row["cutoff"] is None else f", where {percent(row['cutoff'])} was needed"
    did = f"{_DID[row['action']]} with {percent(row['value'])}{needed}"
    if row["action"] == "promote":
        return f"Later {did}: {row['reason']}."
    if row["epoch"] > row["rung"]:  # others have come to the rung since
        did = f"{_DID[row['action']]} by its {percent(row['value'])} at the rung{needed}"
        return f"Judged again after epoch {row['epoch']}: {did}: {row['reason']}."
    return f"Epoch {row['epoch']}: {did}: {row['reason']}."


def audit_lines(study: Study, trial: Trial) -> list[str]:
    """Return what a trial shows that was drawn for the audit; nothing for others."""
    found = audit(study)
    rows = [row for row in found.trials if row.trial == trial.number] if found else []
    if not rows or found is None:
        return []
    row, share = rows[0], asha_rules(study.config).audit_share
    held = "paused" if study.config.asha.form == "promotion" else "stopped"
    lines = [
        f"ASHA would have {held} it after epoch {row.epoch}. It ran on all the same, as"
        f" {100 * share:g} % of such trials do, to measure what stopping costs; what it did later"
        " counted at no rung."
    ]
    if row.promotable:
        return [*lines, "It shows nothing: it would have been promoted later."]
    if trial.outcome == "running":
        return [*lines, "It has not come to its end yet."]
    if not row.counts:
        return [*lines, f"It shows nothing: it {_ended(trial)} before its end."]
    if row.final is None:
        return [*lines, "It could not be trained: to stop it would have been right."]
    best, middle = found.best_of_others, found.median_final
    if row.false_stop:
        lines.append(f"It ended above the best of the others ({percent(best)}): a false stop.")
    elif best is not None:
        lines.append(f"It stayed below the best of the others ({percent(best)}).")
    if middle is not None:
        at_least = "at least as good as" if row.misjudged else "below"
        lines.append(f"It is {at_least} the median of those that went on ({percent(middle)}).")
    return lines


def epoch_lines(trial: Trial) -> list[str]:
    """Return the validation accuracy of every epoch, the middle ones left out of many."""
    values = [
        f"{row.epoch}: {'-' if row.val_accuracy is None else f'{100 * row.val_accuracy:.2f}'}"
        for row in trial.epochs
    ]
    if len(values) > _MOST_VALUES:
        half = _MOST_VALUES // 2
        values = [*values[:half], "...", *values[-half:]]
    return [f"Validation accuracy in percent: {', '.join(values)}."] if values else []


def attempt_lines(trial: Trial, attempts: Sequence[Row]) -> list[str]:
    """Return where each attempt ran, what it trained and how it ended."""
    lines = []
    for row in attempts:
        place = "placed nowhere yet" if row["node"] is None else f"on {row['node']}"
        place += f" (process {row['pid']})" if row["pid"] is not None else ""
        mine = [epoch.epoch for epoch in trial.epochs if epoch.attempt == row["attempt"]]
        trained = "no epoch"
        if mine:
            trained = f"epochs {mine[0]} to {mine[-1]}" if len(mine) > 1 else f"epoch {mine[0]}"
        went_on = " from its checkpoint" if row["from_epoch"] else ""
        text = f"{row['attempt']}, {place}{went_on}: {trained}"
        if row["ended_at"] is None:
            lines.append(f"{text}; not over.")
            continue
        # How the last one ended is said with the trial's end.
        own = row["outcome"] != trial.outcome
        reason = (str(row["reason"] or "").strip().splitlines() or [""])[-1] if own else ""
        took = span(row["ended_at"] - row["started_at"])
        lines.append(f"{text} in {took}; {row['outcome']}{f': {reason}' if reason else ''}.")
    return lines


def end_lines(
    study: Study, trial: Trial, decisions: Sequence[Row], attempts: Sequence[Row]
) -> list[str]:
    """Return why a trial ended, or what it waits for."""
    reason = trial.reason or trial.refusal or "no reason was recorded"
    if trial.outcome == "running":
        return [_waits(study, trial, decisions, attempts)]
    if trial.outcome == "complete":
        return [f"Complete: {reason}."]
    if trial.outcome == "failed":
        what = f"Failed ({trial.failure}): {reason}. That is an error of its code or its worker"
        return [f"{what}, not a bad value; see it with: reproduce {study.name} {trial.name}"]
    if trial.outcome == "infeasible":
        if trial.refusal:
            return [f"Refused before training: {reason}. It does not count for the budget."]
        return [f"Infeasible: {reason}. The sampler takes it for the worst there is."]
    last = decisions[-1]["action"] if decisions else ""
    if last == "stop":
        return [f"ASHA stopped it: {reason}."]
    if last == "pause":
        return [f"It was paused and the study ended: {reason}."]
    return [f"It was cut short: {reason}."]


def standing(study: Study, trial: Trial, decisions: Sequence[Row], attempts: Sequence[Row]) -> str:
    """Return a trial's outcome; of one without: `running`, `paused` or `unfinished`."""
    if trial.outcome != "running":
        return trial.outcome
    if decisions and decisions[-1]["action"] == "pause":
        return "paused"
    alive = study.state == "searching" and is_alive(study)
    return "running" if alive and attempts and attempts[-1]["ended_at"] is None else "unfinished"


def _waits(study: Study, trial: Trial, decisions: Sequence[Row], attempts: Sequence[Row]) -> str:
    alive, done = study.state == "searching" and is_alive(study), last_epoch(trial)
    is_open = bool(attempts) and attempts[-1]["ended_at"] is None
    if alive and is_open:
        return f"Epoch {done + 1} of {trial.max_epochs} is being trained."
    text = f"It goes on after epoch {done}"
    if decisions and decisions[-1]["action"] == "pause":
        text = f"It waits, paused after epoch {done}, to be promoted"
    elif trial.refusal:
        text = f"It will be ended as infeasible: {trial.refusal}"
    return f"{text}." if alive else f"{text}, once the study goes on: resume {study.name}."


def _ended(trial: Trial) -> str:
    return "failed" if trial.outcome == "failed" else "was cut short"
