"""The child of a study: its study file, and what it is given of the parent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from model.config import Configuration
from search.config.config import StudyConfig
from search.config.config_file import load_text
from search.config.locate import Outside, locate
from search.explain.space_advice import Advice, advise, changes_between
from search.record.lineage import Lineage, take_from
from search.record.study import Study, StudyError
from search.record.whole_file import write_text
from search.words import one_line, percent, plural

_AGAIN = 2
"""Best trials whose configurations the child tries again first: its best is one of its own."""
_LONGEST_NAME = 64
_COLUMNS = 98


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A study file for the next study."""

    advice: Advice
    text: str
    """YAML, with a comment at everything that was changed."""
    config: StudyConfig
    """What the text says."""


def child_of(study: Study) -> Child:
    """Return the study file of a study's child; nothing is written."""
    advice = advise(study)
    text = _text(study, advice)
    return Child(advice=advice, text=text, config=load_text(text, f"the child of {study.name}"))


def write_child(child: Child, study: Study, file: Path | None) -> Path:
    """Write a child's study file, to the study's folder where no other is named; return where.

    Raises:
        StudyError: There is one that somebody has changed, or it cannot be written.
    """
    file = file or study.folder / "child.yaml"
    try:
        if file.exists():
            if file.read_text(encoding="utf-8", errors="replace") == child.text:
                return file
            raise StudyError(
                f"{file} is there and is not what would be written now; remove it, or give another"
                " file by --out"
            )
        write_text(file, child.text)
    except OSError as error:
        raise StudyError(f"{file} cannot be written: {error.strerror or error}") from None
    return file


def bequeath(parent: Study, config: StudyConfig, fingerprint: str) -> Lineage:
    """Return what a study begun from `parent` keeps of it; nothing is written.

    Args:
        parent: Is only read, also while it runs.
        config: Of the new study.
        fingerprint: Of its images and their split.

    Raises:
        StudyError: No trial of the parent can be compared with the new study's.
    """
    advice = advise(parent)
    why = {
        change.parameter: change.why
        for change in advice.changes
        if config.space.get(change.parameter) == change.becomes
    }
    return take_from(
        parent,
        config,
        fingerprint=fingerprint,
        projected=advice.did_nothing,
        changes=changes_between(parent.config.space, config.space, why),
    )


def told(lineage: Lineage) -> list[str]:
    """Return what a study takes over, in lines for people."""
    facts = lineage.facts
    line = f"from {facts['parent']}: {plural(len(lineage.taken), 'trial')} taken as evidence"
    if count := sum(lineage.left_out.values()):
        why = "; ".join(f"{n} {reason}" for reason, n in list(lineage.left_out.items())[:4])
        line += f", {count} left out ({why})"
    return [line, *(change_line(change) for change in facts["changes"])]


def change_line(change: Mapping[str, Any]) -> str:
    """Return one change of a space in words."""
    what = f"{_flow(change['was'])} -> {_flow(change['is'])}"
    return f"{change['parameter']}: {what}: {change['why'] or 'changed by hand'}"


def next_name(name: str) -> str:
    """Return the name of a study's child: quickstart-2 after quickstart, then quickstart-3."""
    match = re.fullmatch(r"(.+)-(\d{1,6})", name)
    stem, number = (match[1], int(match[2]) + 1) if match else (name, 2)
    end = f"-{number}"
    return stem[: _LONGEST_NAME - len(end)] + end


def _text(study: Study, advice: Advice) -> str:
    plain = study.config.model_dump(mode="json")
    plain["study"] = next_name(study.config.study)
    plain["seed"] = (study.config.seed + 1) % 2**31
    why = {change.parameter: change for change in advice.changes}
    config = StudyConfig.model_validate(
        study.config.model_dump() | {"space": advice.space, "points": ()}
    )
    lines = _comment(
        f"The child of {study.name}, as its {plural(advice.trials, 'trial')} with a value advise."
        f" `run --from {study.name} FILE` begins with what they know."
    )
    lines += _comment(advice.remark)
    for key, value in plain.items():
        if key == "space":
            lines.append("space:")
            for name, description in advice.space.items():
                if name in why:
                    was = f"was {_flow(why[name].was)}: {why[name].why}"
                    lines += _comment(was, indent="  ")
                lines.append(f"  {name}: {_flow(description)}")
        elif key == "points":
            lines += _points(study, advice, config)
        else:
            if key == "seed":
                lines += _comment("Another one: the same would train anew what is known already.")
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _points(study: Study, advice: Advice, config: StudyConfig) -> list[str]:
    space, able = config.search_space(), sorted(study.trials(), key=lambda trial: trial.merit)
    lines: list[str] = []
    seen: list[dict[str, Any]] = []
    for trial in able:
        if not trial.can_win or trial.is_baseline or len(seen) == _AGAIN:
            continue
        if trial.configuration is None or trial.max_epochs != config.max_epochs:
            continue
        try:
            configuration = Configuration.from_dict(trial.configuration)
            point = locate(space, configuration, projected=advice.did_nothing)
        except Outside:
            continue
        if point and point not in seen:
            seen.append(point)
            lines.append(f"  - {_flow(point)}  # {trial.name}: {percent(trial.value)}")
    if not lines:
        return ["points: []"]
    head = _comment(f"The best of {study.name} inside this space, trained anew before any other.")
    return [*head, "points:", *lines]


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}# {line}" for line in wrap(one_line(text), _COLUMNS - len(indent))]


def _flow(value: Any) -> str:
    """Return a value in one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=False
    )
    return text.removesuffix("\n...\n").strip()
