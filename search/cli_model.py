"""The commands for what a study leaves: its model, exported, asked and served; its dashboards.

`search.cli` adds them to its own. Heavy modules are imported inside each command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from data.one_line import OneLineError
from search.cli_options import (
    DEFAULT_RUNS,
    AsJson,
    Runs,
    StudyName,
    absolute,
    open_named,
    study_folder,
)

models = typer.Typer()

Model = Annotated[str, typer.Argument(help="A study, an export folder, a .safetensors file.")]


@models.command()
def export(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Folder to write; runs/STUDY/export.")] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Write the study to MLflow: its folder, or its URI."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write the final model to a folder that stands alone."""
    from search.record.lock import hold
    from search.run import export_study

    opened = open_named(study, runs)
    if mlflow is not None:
        from search.handover.mlflow_export import check_mlflow

        check_mlflow()  # before minutes are spent
    with hold(opened):
        folder = export_study(opened, None if out is None else absolute(out))
    typer.echo(str(folder))
    if mlflow is not None:
        from search.handover.mlflow_export import export_to_mlflow

        typer.echo(export_to_mlflow(opened, mlflow, folder))


@models.command()
def predict(
    model: Model,
    inputs: Annotated[list[Path], typer.Argument(help="PNG, JPEG, folders of them, CSV.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show per image.")] = 1,
    invert: Annotated[
        bool, typer.Option("--invert", help="Turn dark on bright into bright on dark first.")
    ] = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Label pictures and CSV rows."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from search.handover.predict import find_model
    from search.handover.predict import predict as answer
    from search.handover.predict_page import predict_lines, predict_page
    from search.words import plural

    labeller = find_model(_place(model, runs))
    bright: list[tuple[int, int]] = []
    unread: list[str] = []
    console = Console(stderr=True)
    columns = (TextColumn("reading pictures"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task("", visible=False)
        predictions = answer(
            labeller,
            [absolute(path) for path in inputs],
            top=top,
            invert=invert,
            told=lambda done, total: p.update(
                task, completed=done, total=total, visible=total >= 200
            ),
            noted=lambda number, total: bright.append((number, total)),
            skipped=unread.append,
        )
    if as_json:
        typer.echo(json.dumps([p.to_dict() for p in predictions], indent=2))
    elif (terminal := Console()).is_terminal:
        terminal.print(predict_page(predictions, terminal.width))
    else:
        for line in predict_lines(predictions):
            typer.echo(line)
    for number, total in bright:
        sys.stderr.write(
            f"note: bright at the edges: {plural(number, 'image')} of {total:,}; the model"
            f" knows garments bright on dark, so try {'without' if invert else 'with'} --invert\n"
        )
    for reason in unread:
        sys.stderr.write(f"not labelled: {OneLineError(reason)}\n")
    if unread:
        raise typer.Exit(1)


@models.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A study, or an export folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0: from other machines too.")] = "127.0.0.1",
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Images at once.")] = 64,
    max_wait: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds an image waits for others.")
    ] = 3.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0: all.")] = 0,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Answer pictures over HTTP, with a page to drop them on."""
    from search.handover.predict import open_model
    from search.handover.serve import serve as answer

    answer(
        open_model(_place(model, runs), threads=threads),
        host=host,
        port=port,
        max_batch=max_batch,
        max_wait_ms=max_wait,
        say=typer.echo,
    )


@models.command()
def dashboard(
    study: StudyName,
    tensorboard_port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any that is free.")
    ] = 0,
    optuna_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Show a study in TensorBoard and optuna-dashboard."""
    from search.handover.dashboard import show_dashboards

    show_dashboards(
        open_named(study, runs),
        tensorboard_port=tensorboard_port,
        optuna_port=optuna_port,
        say=typer.echo,
    )


def _place(model: str, runs: Path) -> Path:
    """Return where MODEL is: the study of that name, or else a folder or a file."""
    place = study_folder(model, runs)
    return place if place.is_dir() else absolute(Path(model))
