"""report.json: the facts of the report for machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from search.record.study import Trial
from search.report.space import Axis

FORMAT = 1


def twin(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the page tells, as plain JSON values; what is not there is null or empty.

    Shares and accuracies are fractions, times seconds, moments ISO 8601 in UTC. The keys:

    - `format`, `study`, `state`, `written`, `banner` (what must be known first), `next` (what is
      missing, and the command that makes it);
    - `answer`: `winner` (the trial), `rows` (the winner and each baseline: `test_accuracy`, `ci95`,
      `seeds`, `parameters`, ...), `verdict`, `comparison` (McNemar and the paired difference, see
      final/metrics.json) and `comparison_words`, `chosen_by`, `extras` (ensemble, flip averaging:
      not the winner's), `looks`, `seal_broken`, `cost`;
    - `trials`, in the order of the leaderboard: `trial`, `origin`, `outcome`, `reason`, `value`,
      `best_epoch`, `curve` (validation accuracy by epoch), `parameters`, `configuration`, ...;
    - `rungs`, `stopped`, `audit`, `no_audit`, `importance` and `importance_remark`, `edges`,
      `parameters` (of the space, the most important first);
    - `timeline` (an attempt: `trial`, `outcome`, `slot`, `start`, `seconds`), `nodes`, `proposals`,
      `proposal_cost`, `failures` (trials), `lost` (attempts);
    - `race` (as the record has it, with an interval for each candidate), `race_words`;
    - `models` (each final model with its test results), `classes` (each class's scores with
      intervals), `confusion` (row: the true class), `reliability`, `calibration_error`, `mistakes`,
      `most_wrong` (images: true class, answer, shares);
    - `seal`: every look (`at`, `reason`, `seal`, `models`: name and the beginning of its SHA-256);
    - `data`, `lineage`, `environment`, `commands`, `config` (the study file as resolved), `result`
      (as in result.json).
    """
    evaluation = facts["evaluation"] or {}
    best, winner = facts["best"], facts["winner"]
    result = facts["result"]
    what, command = facts["next_step"]
    plain: dict[str, Any] = _json(
        {
            "format": FORMAT,
            "study": facts["study"],
            "state": facts["state"],
            "written": _moment(facts["written"]),
            "banner": facts["banner"],
            "next": {"what": what, "command": f"python -m search {command}"} if what else None,
            "answer": {
                "winner": None if winner is None else winner.name,
                "best_of_the_search": None if best is None else best.name,
                "rows": facts["answer"],
                "verdict": facts["verdict"],
                "comparison": facts["comparison"],
                "comparison_words": facts["compared"],
                "chosen_by": facts["chosen_by"],
                "extras": facts["extras"],
                "looks": facts["num_looks"],
                "seal_broken": facts["seal_broken"],
                "overtaken": facts["overtaken"],
                "cost": result["budget"],
            },
            "trials": [_trial(trial) for trial in facts["ordered"]],
            "rungs": facts["rungs"],
            "stopped": facts["stops"],
            "audit": result["audit"],
            "no_audit": facts["no_audit"],
            "importance": facts["importance"],
            "importance_remark": facts["importance_remark"],
            "edges": facts["edges"],
            "parameters": [_axis(axis) for axis in facts["axes"]],
            "timeline": [
                {key: bar[key] for key in ("trial", "outcome", "slot", "start", "seconds")}
                for bar in facts["bars"]
            ],
            "nodes": [row.to_dict() for row in facts["workloads"]],
            "proposals": facts["proposals"],
            "proposal_cost": facts["ask"],
            "failures": [trial.name for trial in facts["failures"]],
            "lost": facts["lost"],
            "race": facts["race"],
            "race_words": facts["race_words"],
            "models": facts["models"],
            "classes": facts["classes"],
            "confusion": evaluation.get("confusion"),
            "reliability": evaluation.get("reliability"),
            "calibration_error": evaluation.get("calibration_error"),
            "mistakes": facts["confusions"],
            "most_wrong": [
                {key: value for key, value in row.items() if key != "png"} for row in facts["worst"]
            ],
            "seal": [dict(look) | {"at": _moment(look["at"])} for look in facts["looks"]],
            "data": facts["data"],
            "lineage": facts["lineage"],
            "environment": facts["environment"],
            "commands": [{"what": what, "command": line} for what, line in facts["commands"]],
            "config": facts["config"].model_dump(mode="json"),
            "result": result,
        }
    )
    return plain


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.name,
        "origin": trial.origin,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "failure": trial.failure,
        "value": trial.value,
        "best_epoch": trial.best_epoch,
        "epochs": len(trial.epochs),
        "curve": [row.val_accuracy for row in trial.epochs],
        "parameters": trial.parameters,
        "multiply_adds": trial.multiply_adds,
        "configuration": trial.configuration,
    }


def _axis(axis: Axis) -> dict[str, Any]:
    if axis.choices:
        return {"name": axis.name, "choices": list(axis.choices)}
    return {"name": axis.name, "low": axis.low, "high": axis.high, "log": axis.log}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _json(value: Any) -> Any:
    """Return plain JSON values; NaN and infinity, which JSON has not, become null."""
    if isinstance(value, Mapping):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
