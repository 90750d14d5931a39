"""The commands: `python -m search <command>`.

Heavy modules are imported inside each command, so that `--help` answers at once. Paths are made
absolute here, once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="search",
    help="Find the best small image classifier your machines can train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Run studies from the checkout. Every study is one folder, runs/STUDY.",
)

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only the outcome.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say every epoch.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
DEFAULT_RUNS = Path("runs")

_options = {"debug": False}


@app.callback()
def _every_command(debug: Debug = False) -> None:
    _options["debug"] = debug


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="Study file (YAML).")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Study file that comes with the project, by name.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="fashion-mnist, synthetic, or a directory.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search, retrain the best, look at the test set once, export and report."""
    from search.config_file import load_config
    from search.lock import hold
    from search.run import new_study

    settings = list(overrides or [])
    if data is not None:
        place = data if data in ("fashion-mnist", "synthetic") else str(Path(data).resolve())
        settings += [f"data.source={json.dumps(place)}", "data.fallback=null"]
    if name is not None:
        settings.append(f"study={json.dumps(name)}")
    study_file = None if config is None else config.resolve()
    resolved = load_config(study_file, preset=preset, overrides=settings)
    folder = runs.resolve()
    if name is None:
        resolved = resolved.model_copy(update={"study": _free_name(resolved.study, folder)})
    level = _verbosity(quiet or as_json, verbose)
    study, images = new_study(resolved, folder, level)
    with hold(study.folder):
        _go_on(study, images, level, as_json)


@app.command()
def resume(
    study: StudyName,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a study that was interrupted, from its record."""
    from search.lock import hold
    from search.run import reopen_images

    opened = _open(study, runs)
    with hold(opened.folder):
        _go_on(opened, reopen_images(opened), _verbosity(quiet or as_json, verbose), as_json)


@app.command()
def status(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study; all of them if left out.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Show how a study stands, also while it runs."""
    from search.progress import status_table, studies_table
    from search.result import summarise
    from search.study import StudyError

    if study is not None:
        opened = _open(study, runs)
        _print(summarise(opened), as_json, lambda: status_table(opened))
        return
    found = sorted(path.parent for path in runs.resolve().glob("*/study.db"))
    summaries = []
    for folder in found if as_json else ():
        try:
            summaries.append(summarise(_open(str(folder), runs)))
        except StudyError as error:
            summaries.append({"study": folder.name, "error": str(error)})
    _print(summaries, as_json, lambda: studies_table(found))


@app.command()
def retrain(
    study: StudyName, runs: Runs = DEFAULT_RUNS, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Train the best configuration again on all training images, with fresh seeds."""
    from search.lock import hold
    from search.run import report_study, retrain_study

    opened = _open(study, runs)
    with hold(opened.folder):
        retrain_study(opened, _verbosity(quiet, verbose))
        report_study(opened)
    typer.echo(f"retrained: {opened.folder / 'final'}; next: evaluate {opened.name}")


@app.command()
def evaluate(
    study: StudyName,
    break_seal: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why the test set is opened again.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure the retrained models on the test images: once, and recorded."""
    from search.lock import hold
    from search.run import evaluate_study, report_study

    opened = _open(study, runs)
    with hold(opened.folder):
        evaluate_study(opened, break_seal=break_seal)
        if opened.state == "retrained":
            opened.set_state("finished")
        result = report_study(opened)
    _show_result(opened, result, as_json)


@app.command()
def export(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Folder to write; runs/STUDY/export.")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write the final model as safetensors, torch.export and ONNX, proven to agree."""
    from search.lock import hold
    from search.run import export_study

    opened = _open(study, runs)
    with hold(opened.folder):
        folder = export_study(opened, None if out is None else out.resolve())
    typer.echo(str(folder))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A study, an export folder, a .safetensors file.")],
    inputs: Annotated[list[Path], typer.Argument(help="PNG, JPEG, folders of them, CSV.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show per image.")] = 1,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Label pictures and CSV rows."""
    from search.predict import find_model, predict_table
    from search.predict import predict as label

    place = _study_folder(model, runs)
    if not place.is_dir():
        place = Path(model).resolve()
    predictions = label(find_model(place), [p.resolve() for p in inputs], top=top)
    _print([p.to_dict() for p in predictions], as_json, lambda: predict_table(predictions))


@app.command()
def report(study: StudyName, runs: Runs = DEFAULT_RUNS) -> None:
    """Write the study's report.html, report.md and result.json."""
    from search.run import report_study

    opened = _open(study, runs)
    report_study(opened)
    typer.echo(str(opened.folder / "report.html"))


@app.command()
def explore(
    source: Annotated[str, typer.Argument(help="fashion-mnist, synthetic, or a directory.")] = (
        "fashion-mnist"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder to write; explored/SOURCE.")] = None,
) -> None:
    """Draw a first look at a data set: balance, samples, means, pixels, duplicates."""
    from data.explore import explore as draw
    from data.source import DataSpec, load_test, load_train
    from search.progress import download_progress

    place = source if source in ("fashion-mnist", "synthetic") else str(Path(source).resolve())
    spec = DataSpec(source=place)
    with download_progress("normal") as progress:
        train = load_train(spec, progress)
    folder = out or Path("explored") / Path(place).name
    typer.echo(str(draw(train, load_test(spec), folder.resolve())))


def main() -> None:
    """Run a command; turn what a person can mend into one line and exit code 2."""
    try:
        app()
    except Exception as error:
        if _options["debug"] or not _is_for_people(error):
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def _is_for_people(error: Exception) -> bool:
    # By name: importing the classes would import what the command may not have needed.
    names = {"DataError", "StudyError", "ConfigError", "CheckpointError", "ExportError"}
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & names) or isinstance(error, ValueError | OSError)


def _go_on(study: Any, images: Any, level: Any, as_json: bool) -> None:
    from search.run import finish, report_study, search

    try:
        done = study.state not in ("created", "searching", "stopped")
        if done or search(study, images, level):
            _show_result(study, finish(study, level), as_json)
            return
        report_study(study)
    except KeyboardInterrupt:
        pass
    sys.stderr.write(f"stopped; resume with: python -m search resume {study.name}\n")
    sys.exit(130)


def _show_result(study: Any, result: dict[str, Any], as_json: bool) -> None:
    from search.progress import summary

    _print(result, as_json, lambda: summary(study))


def _open(study: str, runs: Path) -> Any:
    from search.study import open_study

    return open_study(_study_folder(study, runs))


def _study_folder(study: str, runs: Path) -> Path:
    # A name is looked up under --runs; anything with a slash is a folder.
    return (Path(study) if "/" in study else runs / study).resolve()


def _verbosity(quiet: bool, verbose: bool) -> Any:
    return "quiet" if quiet else "verbose" if verbose else "normal"


def _free_name(name: str, runs: Path) -> str:
    # A second `make search` is a second study, not an error and not an overwrite.
    taken, number, free = {path.name for path in runs.glob("*")}, 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _print(content: Any, as_json: bool, table: Callable[[], Any]) -> None:
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    from rich.console import Console

    Console().print(table())
