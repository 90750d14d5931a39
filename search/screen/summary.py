"""What a study has found, for people: the answer, what it is worth, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from search.record.lock import is_alive
from search.screen.screen import columns
from search.words import (
    data_caution,
    describe_network,
    p_value,
    percent,
    plural,
    span,
)

if TYPE_CHECKING:
    from search.record.study import Study


def summary(study: Study) -> RenderableType:
    """Return what a study found: the answer, what it cost, and where everything is."""
    from search.screen.result import build_result

    result = build_result(study)
    final, race = result["final"], result["race"]
    answer = _grid()
    if caution := data_caution(study):
        answer.add_row(Text("CAUTION", style="reverse"), Text(caution, style="bold yellow"))
    parts: list[RenderableType] = [answer]
    if final is None:
        answer.add_row("Test", f"not measured: {_why_not_measured(study)}")
    else:
        text = Text(percent(final["test_accuracy"]), style="bold green")
        text.append(f", 95 % interval {interval(final['ci95'])}; {plural(final['seeds'], 'seed')}")
        text.append(f", {result['dataset']['test_images']:,} test images")
        answer.add_row("Test", text)
        answer.add_row("Looks", _looks(final["test_looks"], final["seal_broken"]))
        if final["comparison"] and final["comparison"]["ci95"][1] < 0:
            worse = f"the winner is worse than {final['comparison']['baseline']}: nothing was found"
            answer.add_row(Text("CAUTION", style="reverse"), Text(worse, style="bold yellow"))
        if final["comparison"]:
            for name, line in _paired(final["comparison"]):
                answer.add_row(name, line)
        parts += ["", _against(result), ""]
        if final["extras"]:
            parts += [_extras(final["extras"]), ""]
    parts.append(_winner(study, result))
    if race and race["ended"]:
        parts.append(_race(race, final))
    title = Text.assemble((study.name, "bold"), f" - {state_of(study)}")
    panel = Panel(Group(*parts), title=title, title_align="left", border_style="green")
    return Group(panel, *_places(study))


def outcome(study: Study) -> str:
    """Return the outcome alone, for who asked for quiet: one line, and a caution before it."""
    from search.screen.result import build_result

    result = build_result(study)
    final, best = result["final"], result["best"]
    lines = [f"CAUTION: {caution}"] if (caution := data_caution(study)) else []
    if final is not None:
        looks = _looks(final["test_looks"], final["seal_broken"])
        text = f"test accuracy {percent(final['test_accuracy'])}"
        text += f", 95 % interval {interval(final['ci95'])}, by {final['trial']}; {looks}"
    else:
        text = f"test accuracy not measured: {_why_not_measured(study)}"
        if best is not None:
            text += f"; best validation accuracy {percent(best['val_accuracy'])} by {best['trial']}"
    return "\n".join([*lines, f"{study.name}: {text}"])


def _why_not_measured(study: Study) -> str:
    from search.screen.result import final_metrics

    if study.record.looks() and final_metrics(study):
        return "the test images were opened before, for other final models"
    return "there are no retrained models yet"


def _winner(study: Study, result: dict[str, Any]) -> Table:
    table, budget = _grid(), result["budget"]
    found = result["final"] or result["best"]
    if found is not None:
        trial = next(t for t in study.trials() if t.name == found["trial"])
        chosen = "Winner" if result["final"] else "Best"
        table.add_row(
            chosen, f"{trial.name} ({trial.origin}), validation accuracy {percent(trial.value)}"
        )
        if trial.is_baseline:
            table.add_row("", "the search found nothing better than this baseline")
        if trial.configuration is not None:
            training = trial.configuration["training"]
            table.add_row("Network", describe_network(trial.configuration))
            table.add_row(
                "Recipe",
                f"{training['optimizer']}, learning rate {training['learning_rate']:.3g}"
                f" ({training['schedule']}), batches of {training['batch_size']},"
                f" {plural(found['epochs'], 'epoch')}",
            )
        table.add_row(
            "Cost",
            f"{trial.parameters or 0:,} parameters, {(trial.multiply_adds or 0) / 1e6:.2f} million"
            " multiply-adds an image",
        )
    table.add_row(
        "Search",
        f"{plural(result['trials']['total'], 'trial')},"
        f" {plural(budget['trial_epochs'], 'epoch')} in {span(budget['search_seconds'])};"
        f" all stages {span(budget['wall_seconds'])}",
    )
    return table


def _paired(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the paired difference and McNemar's test, each on a line."""
    low, high = (100 * bound for bound in comparison["ci95"])
    ours, theirs = comparison["models"]
    return [
        (
            "Paired",
            f"{100 * comparison['difference']:+.2f} points against {comparison['baseline']},"
            f" 95 % interval {low:+.2f} to {high:+.2f}",
        ),
        (
            "McNemar",
            f"p = {p_value(comparison['p_value'])}: {ours} alone is right on"
            f" {comparison['only_winner_right']:,} images, {theirs} on"
            f" {comparison['only_baseline_right']:,}",
        ),
    ]


def _race(race: dict[str, Any], final: dict[str, Any] | None) -> Table:
    """Return who was chosen and how, and how far the search's best value was off."""
    table = _grid()
    rows = {row["name"]: row for row in race["candidates"]}
    if final is not None and final["trial"] != rows[race["chosen"]]["trial"]:
        table.add_row("Chosen", f"{race['chosen']} since then; `resume` retrains it")
        return table
    chance = rows[race["chosen"]]["p_best"]
    text = f"{race['chosen']}: a race of {len(rows)}, {plural(race['rounds'], 'round')}"
    if chance is not None and race["chosen"] == race["leader"] and len(rows) > 1:
        text += f", P(best) {chance:.2f}"
    table.add_row("Chosen", text)
    table.add_row("", race["reason"])
    if found := race["optimism"]:
        low, high = (100 * bound for bound in found["ci95"])
        table.add_row(
            "Optimism",
            f"{100 * found['optimism']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}: the"
            f" search saw {percent(found['search_value'])} of {found['trial']}",
        )
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True, min_width=8)
    table.add_column()
    return table


def _against(result: dict[str, Any]) -> Table:
    table = columns(
        "Mean over seeds*", "Test>", "95 % interval>", "Std>", "Seeds>", "Winner leads>"
    )
    final = result["final"]
    for name, row in [("winner", final), *((row["name"], row) for row in result["baselines"])]:
        if row["test_accuracy"] is None:
            continue
        spread, lead = row["test_accuracy_std"], final["test_accuracy"] - row["test_accuracy"]
        table.add_row(
            name,
            percent(row["test_accuracy"]),
            interval(row["ci95"]),
            "-" if spread is None else f"{100 * spread:.2f}",
            str(row["seeds"]),
            "" if row is final else f"{100 * lead:+.2f} points",
            style="bold" if row is final else None,
        )
    return table


def _extras(extras: Sequence[dict[str, Any]]) -> Table:
    """Return what averaging the winner's answers gives: shown beside it, and never as its own."""
    table = columns("Not the winner: its answers averaged*", "Test>", "95 % interval>")
    for row in extras:
        table.add_row(
            row["name"], percent(row["test_accuracy"]), interval(row["ci95"]), style="dim"
        )
    return table


def _looks(count: int, broken: bool) -> str:
    text = f"{plural(count, 'look')} at the test set"
    return f"{text}; the seal was BROKEN: the accuracy is less honest" if broken else text


def _places(study: Study) -> list[Text]:
    folder = study.folder
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    files = {"Report": "report.html", "Numbers": "result.json", "Export": "export"}
    lines = [f"{k:12}{shown / name}" for k, name in files.items() if (folder / name).exists()]
    lines.append(f"{'TensorBoard':12}tensorboard --logdir {shown}")
    # Outside the panel, whose borders would be copied along, and broken at the last column only.
    return [Text(f"  {line}", overflow="fold") for line in lines]


def interval(bounds: Sequence[float] | None) -> str:
    """Return an interval in percent, without the sign."""
    return "-" if bounds is None else f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


_STAGES = {
    "race": "racing the finalists",
    "retrain": "training the final models",
    "evaluate": "measuring on the test images",
    "export": "exporting the model",
}
"""What a session of a stage does now."""


def is_interrupted(study: Study) -> bool:
    """Return whether its search has ended without a word."""
    return study.state == "searching" and not is_alive(study)


def state_of(study: Study) -> str:
    """Return where a study stands, and what is done with it now."""
    if is_interrupted(study):
        return f"interrupted while {study.state}"
    sessions = study.sessions.all() if study.state != "searching" and is_alive(study) else []
    now = sessions[-1]["stage"] if sessions and sessions[-1]["ended_at"] is None else ""
    return f"{study.state}; {_STAGES[now]}" if now in _STAGES else study.state
