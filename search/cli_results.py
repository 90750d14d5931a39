"""The commands for what a search has found and how: from retrain to explain, verify and explore.

`search.cli` adds them to its own. Heavy modules are imported inside each command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from search.cli_options import (
    DEFAULT_RUNS,
    AsJson,
    Quiet,
    Runs,
    StudyName,
    Verbose,
    absolute,
    data_place,
    open_named,
    show,
    show_result,
    verbosity,
)

results = typer.Typer()


@results.command()
def retrain(
    study: StudyName, runs: Runs = DEFAULT_RUNS, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Train the chosen configuration again on all training images, with fresh seeds."""
    from search.record.lock import hold
    from search.run import race_study, report_study, retrain_study

    opened = open_named(study, runs)
    with hold(opened):
        race_study(opened, verbosity(quiet, verbose))
        retrain_study(opened, verbosity(quiet, verbose))
        report_study(opened)
    typer.echo(f"retrained: {opened.folder / 'final'}; next: evaluate {opened.name}")


@results.command()
def evaluate(
    study: StudyName,
    break_seal: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why the test set is opened again.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure the retrained models on the test images: once, and recorded."""
    from search.handover.export import is_exported
    from search.record.lock import hold
    from search.run import evaluate_study, export_study, report_study

    opened = open_named(study, runs)
    with hold(opened):
        evaluate_study(opened, break_seal=break_seal)
        if opened.state == "retrained":
            opened.set_state("finished")
        if (opened.folder / "export").is_dir() and not is_exported(opened):
            export_study(opened)  # its card tells of every look
        result = report_study(opened)
    show_result(opened, result, as_json)


@results.command()
def explain(
    study: StudyName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="t0017, or just 17.")],
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Say why a trial was proposed, how it fared and why it ended."""
    from search.explain.explain import explain as find
    from search.explain.explain import explanation_page

    found = find(open_named(study, runs), trial)
    show(found.to_dict(), as_json, lambda: explanation_page(found))


@results.command()
def verify(study: StudyName, runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Derive every proposal and decision again from the record; exit code 1 where one differs."""
    from rich.console import Console

    from search.explain.verify import verify as derive

    opened = open_named(study, runs)
    with Console(stderr=True).status("deriving every proposal and decision again"):
        found = derive(opened)
    # Not a table: the difference stays on one line, however narrow the terminal.
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    if found.difference is not None:
        raise typer.Exit(1)


@results.command()
def report(study: StudyName, runs: Runs = DEFAULT_RUNS) -> None:
    """Write the study's report.html, report.md and result.json."""
    from search.run import report_study

    opened = open_named(study, runs)
    report_study(opened)
    typer.echo(str(opened.folder / "report.html"))


@results.command()
def space(
    study: StudyName,
    out: Annotated[
        Path | None, typer.Option(help="Study file to write; runs/STUDY/child.yaml.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Say which bounds the best trials hit, what did nothing, what failed; write a child's file."""
    from search.explain.child import child_of, write_child
    from search.explain.space_page import space_page

    opened = open_named(study, runs)
    child = child_of(opened)
    file = write_child(child, opened, None if out is None else absolute(out))
    content = child.advice.to_dict() | {"file": str(file)}
    show(content, as_json, lambda: space_page(child.advice, str(file)))


@results.command()
def explore(
    source: Annotated[str, typer.Argument(help="fashion-mnist, synthetic, or a directory.")] = (
        "fashion-mnist"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder to write; explored/SOURCE.")] = None,
) -> None:
    """Draw a first look at a data set: balance, samples, means, pixels, duplicates."""
    from data.explore import explore as draw
    from data.source import DataSpec, load_test, load_train
    from search.screen.progress import download_progress

    place = data_place(source)
    spec = DataSpec(source=place)
    with download_progress("normal") as progress:
        train = load_train(spec, progress)
    folder = out or Path("explored") / Path(place).name
    typer.echo(str(draw(train, load_test(spec), absolute(folder))))
