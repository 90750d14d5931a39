"""Let a study go on beyond its budget: more trials, more time, or a longer training.

What only the end of the budget had ended is taken back (waiting for promotion, or in training), so
that the study goes on as if it had been begun with the larger budget. See
`search.record.extension`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from search.config.config import StudyConfig
from search.config.config_file import dump_config
from search.propose.ledger import Ledger
from search.prune.budget import describe
from search.record.extension import Extension, as_extended, may_go_on
from search.record.study import UNSEARCHED, Study, StudyError, open_study, trial_name
from search.record.view import View
from search.record.whole_file import write_text
from search.words import plural

_ENDS = ("trials", "epochs", "seconds", "device_hours")
_AGAIN = 4
"""Best configurations that a longer training begins with."""
_AMOUNT = re.compile(r"(\+?)(\d{1,12}(?:\.\d{1,6})?)")
_MOST = 1e9
"""Of any limit: more is a slip of the finger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for: `+50` is added to what is allowed or used, `200` is the new limit."""

    trials: str | None = None
    epochs: str | None = None
    minutes: str | None = None
    max_epochs: int | None = None


def extend(study: Study, wish: Wish) -> tuple[Study, list[str]]:
    """Raise the budget of a study; return it as it is now, and what was done, line by line.

    Raises:
        StudyError: Nothing is asked for, or what is asked for is no extension.
    """
    config = study.config
    longer = wish.max_epochs if wish.max_epochs is not None else config.max_epochs
    again = _again(study, longer) if longer != config.max_epochs else ()
    said: list[str] = []
    budget = _budget(study, wish, len(again), said)
    made = Extension(budget=budget, max_epochs=longer, before=config.max_epochs, again=again)
    try:
        extended = as_extended(config, [made])
    except ValidationError as error:
        raise StudyError(
            f"{study.name} cannot be extended so: {error.errors()[0]['msg']}"
        ) from None
    if extended == config:
        raise StudyError(
            "nothing is asked for; give --trials +50, --epochs +200, --minutes +30 or --max-epochs"
            f" {config.max_epochs * 2}"
        )
    reopened = [] if made.is_longer else [t.number for t in study.trials() if may_go_on(t, longer)]
    study.set_state("stopped")  # first: alone it changes nothing, and `resume` goes on from here
    study.record.add_extension(made.to_json(), reopened)
    ledger = Ledger(study.optuna)
    for trial in reopened:
        ledger.reopen(trial)
    write_config(study, extended)
    if reopened:
        said.append(f"{plural(len(reopened), 'trial')} that the budget had ended may go on")
    if again:
        names = ", ".join(map(trial_name, again))
        said.append(f"training lasts {longer} epochs now; {names} are trained anew first")
    return open_study(study.folder), said


def _budget(study: Study, wish: Wish, more_trials: int, said: list[str]) -> dict[str, Any]:
    view, now = View.of(study), time.time()
    limits = study.config.budget
    budget: dict[str, Any] = limits.model_dump()
    minutes = None if limits.seconds is None else limits.seconds / 60
    wished = {
        "trials": _raised("--trials", wish.trials, limits.trials, view.num_asked),
        "epochs": _raised("--epochs", wish.epochs, limits.epochs, view.num_epochs),
        "seconds": _raised("--minutes", wish.minutes, minutes, view.seconds(now) / 60),
    }
    if wished["seconds"] is not None:
        wished["seconds"] *= 60
    met = [use.limit for use in view.budget(now) if use.share >= 1]
    others = {k for k, v in budget.items() if k in _ENDS and v is not None and k not in met}
    if wished["trials"] is None and more_trials and (limits.trials is not None or not others):
        wished["trials"] = max(limits.trials or 0, view.num_asked) + more_trials
    wished_keys = {key for key, value in wished.items() if value is not None}
    if not wished_keys:
        return budget
    for key, value in wished.items():
        if value is not None and budget[key] is None and others - wished_keys:
            raise StudyError(
                f"{study.name} has no limit of {key}, so a new one could only end it earlier; its"
                f" budget is {describe(limits)}: raise that"
            )
        if value is not None:
            budget[key] = value if key == "seconds" else int(value)
            said.append(f"budget.{key} is {budget[key]:,} now")
    for use in view.budget(now):
        if use.share >= 1 and wished.get(use.limit) is None:
            budget[use.limit] = None
            said.append(f"budget.{use.limit} was met and is dropped ({use.text})")
    if budget["plateau_trials"] is None:
        budget["plateau_delta"] = 0.0
    return budget


def _raised(option: str, wished: str | None, limit: float | None, used: float) -> float | None:
    if wished is None:
        return None
    match = _AMOUNT.fullmatch(wished)
    if match is None or float(match[2]) == 0 or (option != "--minutes" and "." in wished):
        raise StudyError(
            f"{option} {wished!r} is no number above 0; give +50 for more, or 200 for in all"
        )
    base = max(limit or 0, used)
    if base + float(match[2]) > _MOST:
        raise StudyError(f"{option} {wished} is more than the {_MOST:,.0f} that a limit may be")
    if match[1]:
        return base + float(match[2])
    if float(match[2]) <= base:
        raise StudyError(
            f"{option} {wished} is no more than the {base:g} that are allowed or used; to add to"
            f" them, give {option} +{match[2]}"
        )
    return float(match[2])


def _again(study: Study, longer: int) -> tuple[int, ...]:
    if longer < study.config.max_epochs:
        raise StudyError(
            f"--max-epochs {longer} is less than the {study.config.max_epochs} of {study.name}"
        )
    if study.state in UNSEARCHED:
        raise StudyError(
            f"the search of {study.name} has not ended; `resume {study.name}` first: trials in"
            " flight have learning rates for the shorter training"
        )
    able = sorted((t for t in study.trials() if t.can_win), key=lambda trial: trial.merit)
    return tuple(trial.number for trial in able[:_AGAIN])


def write_config(study: Study, config: StudyConfig) -> None:
    """Write a study's file again, with the comments it begins with."""
    path = study.folder / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(line for line in lines if line.startswith("#"))
    write_text(path, header + dump_config(config))
