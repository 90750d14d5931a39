"""Why a trial was proposed, how it fared and why it ended: `explain`, in plain sentences.

Everything is read from the record, also while the study runs; no Ray.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from search.explain.course import (
    attempt_lines,
    audit_lines,
    end_lines,
    epoch_lines,
    rung_lines,
    standing,
)
from search.explain.proposal import length_scales, why_proposed
from search.record.study import Study, StudyError, Trial, best_of
from search.words import (
    average_words,
    describe_network,
    flip_words,
    last_epoch,
    one_line,
    percent,
    plural,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What is known of one trial."""

    trial: Trial
    sections: dict[str, list[str]]
    """Heading -> sentences."""
    detail: str
    """The traceback of a trial that failed, or empty."""
    facts: dict[str, Any]
    """The same for programs, JSON-plain."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `explain --json`."""
        return self.facts | {"sections": self.sections, "detail": self.detail}


def explain(study: Study, wanted: str) -> Explanation:
    """Explain the trial that `wanted` names: `t0017`, `17`.

    Raises:
        StudyError: There is no such trial.
    """
    trials = study.trials()
    trial = find_trial(study, trials, wanted)
    decisions = [d for d in study.record.decisions() if d["trial"] == trial.number]
    attempts = [a for a in study.record.attempts() if a["trial"] == trial.number]
    failed = [a for a in attempts if a["outcome"] == "failed"]
    detail = str(failed[-1]["reason"]).strip() if failed else ""
    sections = {
        "Result": [_result(study, trial, trials)],
        "Proposed": why_proposed(study, trial),
        "Network": _network(trial),
        "Rungs": rung_lines(study, trial, decisions),
        "Audit": audit_lines(study, trial),
        "Epochs": epoch_lines(trial),
        "Attempts": attempt_lines(trial, attempts),
        "Now" if trial.outcome == "running" else "End": end_lines(
            study, trial, decisions, attempts
        ),
        "Race": _race_lines(study, trial),
    }
    rank, of = _rank(trial, trials)
    facts = {
        "study": study.name,
        "trial": trial.name,
        "outcome": trial.outcome,
        "standing": standing(study, trial, decisions, attempts),
        "reason": trial.reason,
        "origin": trial.origin,
        "value": trial.value,
        "best_epoch": trial.best_epoch,
        "rank": rank,
        "of": of,
        "configuration": trial.configuration,
        "parameters": trial.parameters,
        "multiply_adds": trial.multiply_adds,
        "proposal": dict(trial.proposal),
        "length_scales": length_scales(study, trial.proposal),
        "decisions": decisions,
        "attempts": attempts,
    }
    kept = {heading: lines for heading, lines in sections.items() if lines}
    return Explanation(
        trial=trial, sections=kept, detail=detail if "\n" in detail else "", facts=facts
    )


def explanation_page(found: Explanation) -> RenderableType:
    """Return an explanation for a terminal; 80 columns are enough."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for index, (heading, lines) in enumerate(found.sections.items()):
        if index:
            table.add_row("", "")
        for number, line in enumerate(lines):
            table.add_row("" if number else heading, Text(one_line(line)))
    parts: list[RenderableType] = [table]
    if found.detail:
        shown = "\n".join(_printable(line) for line in found.detail.splitlines())
        parts += ["", Text("Traceback", style="bold"), Text(shown, style="dim", overflow="fold")]
    title = Text.assemble((found.trial.name, "bold"), f" of {found.facts['study']}")
    title.append(f" - {found.facts['standing']}")
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def find_trial(study: Study, trials: Sequence[Trial], wanted: str) -> Trial:
    """Return the trial that `wanted` names: `t0017`, `17`.

    Raises:
        StudyError: There is no such trial.
    """
    match = re.fullmatch(r"t?(\d{1,9})", wanted.strip().lower())
    number = int(match.group(1)) if match else len(trials)
    if number < len(trials):
        return trials[number]
    if not trials:
        raise StudyError(f"{study.name} has no trials yet; see `status {study.name}`")
    last = trials[-1].name
    raise StudyError(
        f"{study.name} has no trial {one_line(wanted)!r}; give one of {trials[0].name} to {last}"
        f" ({trials[-1].number} is {last}); report.html lists them"
    )


def _rank(trial: Trial, trials: Sequence[Trial]) -> tuple[int | None, int]:
    merits = sorted(t.merit for t in trials if t.can_win)
    return merits.index(trial.merit) + 1 if trial.can_win else None, len(merits)


def _race_lines(study: Study, trial: Trial) -> list[str]:
    """Return how it fared among the finalists after the search, if it was one."""
    race = study.noted("race") or {"candidates": []}
    row = next((row for row in race["candidates"] if row["trial"] == trial.name), None)
    if row is None or row["mean"] is None:
        return []
    text = f"Trained again in {plural(len(row['values']), 'round')}: {percent(row['mean'])} in the"
    text += " mean" + ("." if row["p_best"] is None else f", P(best) {row['p_best']:.2f}.")
    if row["name"] == race["chosen"]:
        return [text, f"Chosen for the final models: {race['reason']}."]
    return [text, f"It left the race: {row['why_left']}."] if row["why_left"] else [text]


def _result(study: Study, trial: Trial, trials: Sequence[Trial]) -> str:
    if trial.value is None:
        return "It has no value" + (" yet." if trial.outcome == "running" else ".")
    done, best = last_epoch(trial), best_of(list(trials))
    text = f"{percent(trial.value)} in epoch {trial.best_epoch}; trained for {done}"
    text += f" of {plural(study.config.max_epochs, 'epoch')}. "
    rank, of = _rank(trial, trials)
    if rank is None:
        text += f"Not ranked: it is {trial.outcome} and cannot win."
    elif of == 1:
        text += "No other trial has a value."
    elif rank == 1:
        text += f"It is the best of {of} trials with a value."
    else:
        assert best is not None and best.value is not None
        text += f"Rank {rank} of {of} trials with a value"
        text += f", {100 * (best.value - trial.value):.2f} points behind {best.name}."
    return text


def _network(trial: Trial) -> list[str]:
    if trial.configuration is None:
        return ["Its parameters make no network."]
    cost = ""
    if trial.parameters is not None and trial.multiply_adds is not None:
        cost = f": {trial.parameters:,} parameters, {trial.multiply_adds / 1e6:.2f} million"
        cost += " multiply-adds an image"
    recipe = trial.configuration["training"]
    words = [f"{recipe['optimizer']}, learning rate {recipe['learning_rate']:.3g}"]
    words[0] += f" ({recipe['schedule']})"
    words += [f"batches of {recipe['batch_size']}", f"weight decay {recipe['weight_decay']:.2g}"]
    words += [f"{key} {recipe[key]:g}" for key in ("shift", "erase") if recipe[key]]
    words += flip_words(recipe)
    if recipe["label_smoothing"]:
        words.append(f"label smoothing {recipe['label_smoothing']:g}")
    words += average_words(recipe)
    return [f"{describe_network(trial.configuration)}{cost}.", f"Recipe: {', '.join(words)}."]


def _printable(line: str) -> str:
    # As it is, indented: only what could move the cursor is taken out.
    return "".join(c if c.isprintable() else " " for c in line)
