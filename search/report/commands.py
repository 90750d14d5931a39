"""The commands that repeat a study, or go on from it, ready to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.record.study import Study


def command_facts(study: Study, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each command does, and the command; those of no use yet are left out.

    Args:
        study: Whose commands they are.
        facts: `winner`, `best`, `models` and `seal_breaks` of the report.
    """
    name, runs = shlex.quote(study.name), _runs(study.folder.parent)
    where = "" if runs == "runs" else f" --runs {shlex.quote(runs)}"
    settings = shlex.quote(f"{runs}/{study.folder.name}/config.yaml")
    rows = [
        ("the whole study again, with its settings", f"run {settings} --name {name}-again{where}"),
        ("go on where it was interrupted", f"resume {name}{where}"),
        ("how it stands", f"status {name}{where}"),
        ("this report again, from the record", f"report {name}{where}"),
        ("derive every proposal and decision again", f"verify {name}{where}"),
    ]
    trial = facts["winner"] or facts["best"]
    if trial is not None:
        what = "the winner" if facts["winner"] is not None else "the best trial"
        rows.append((f"train {what} as its worker did", f"reproduce {name} {trial.name}{where}"))
        rows.append((f"why {what} was proposed and kept", f"explain {name} {trial.name}{where}"))
    if facts["models"]:
        seal = ' --break-seal "why"' if facts["seal_breaks"] else ""
        what = "open the test set again, which marks the result" if seal else "open the test set"
        rows.append((what, f"evaluate {name}{seal}{where}"))
        rows.append(("the model as a folder that stands alone", f"export {name}{where}"))
    elif trial is not None:
        rows.append(("choose, and train on all training images", f"retrain {name}{where}"))
    return {"commands": [(what, f"python -m search {command}") for what, command in rows]}


def _runs(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
