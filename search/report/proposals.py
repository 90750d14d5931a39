"""What the report says of the proposals: where they came from, and what making them cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from search.propose.fidelity_sampler import BASIS
from search.propose.sampler import ASK_SECONDS
from search.record.study import Study, Trial, best_of

_KINDS = {
    "model": "model: of the values at all rungs",
    "start": "start: spread over the space",
    "exploration": "exploration: anywhere in the space",
    "nothing observed yet": "anywhere: too few values for the model",
    "no candidate can be": "anywhere: the model's candidates cannot be, or were tried",
    "tpe": "Optuna's TPE",
    "random": "anywhere in the space",
}
"""By what a sampler noted as its ground."""


def proposal_facts(study: Study, trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """Return the kinds of proposals, and the time that making them took of `seconds` searched."""
    asked = [
        trial.user_attrs[ASK_SECONDS]
        for trial in study.optuna.get_trials(deepcopy=False)
        if ASK_SECONDS in trial.user_attrs and BASIS in trial.user_attrs
    ]
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(kind_of(trial), []).append(trial)
    rows = []
    for kind, some in kinds.items():
        best = best_of(some)
        rows.append(
            {
                "kind": kind,
                "trials": len(some),
                "complete": sum(trial.outcome == "complete" for trial in some),
                "best": None if best is None else best.value,
                "best_trial": "-" if best is None else best.name,
            }
        )
    return {
        "proposals": rows,
        "ask": {
            "seconds": sum(asked),
            "share": sum(asked) / seconds if seconds > 0 else None,
            "p95_ms": 1000 * float(np.quantile(asked, 0.95)) if asked else None,
        },
    }


def kind_of(trial: Trial) -> str:
    """Return where a trial came from, in a few words."""
    origin = trial.origin
    if origin.startswith("baseline "):
        return "baselines"
    if origin.startswith("point "):
        return "points of the study file"
    if origin.startswith("replicate "):
        return "replicate: nothing new was left to try"
    if origin == "sampler, at random":
        return "anywhere: the sampler's cannot be, or was tried"
    by = str(trial.proposal.get("by", "sampler"))
    return _KINDS.get(by, by)
