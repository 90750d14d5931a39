"""The commands: `python -m search <command>`.

Heavy modules are imported inside each command, so that `--help` answers at once. Paths are made
absolute here, once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data.one_line import OneLineError
from search.cli_care import care
from search.cli_cluster import ask, clusters, hand_over, is_elsewhere
from search.cli_model import models
from search.cli_options import (
    DEFAULT_RUNS,
    Address,
    AsJson,
    Config,
    Data,
    GoOnAt,
    Overrides,
    Parent,
    Preset,
    Quiet,
    Runs,
    StudyName,
    ThereToo,
    Verbose,
    absolute,
    child_file,
    child_text,
    go_on,
    open_named,
    resolve,
    show,
    verbosity,
)
from search.cli_results import results
from search.record.whole_file import is_disk_full

app = typer.Typer(
    name="search",
    help="Find the best small image classifier your machines can train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Run studies from the checkout. Every study is one folder, runs/STUDY.",
)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

_options = {"debug": False}


@app.callback()
def _every_command(debug: Debug = False) -> None:
    _options["debug"] = debug


@app.command()
def run(
    config: Config = None,
    preset: Preset = None,
    overrides: Overrides = None,
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    parent: Parent = None,
    runs: Runs = DEFAULT_RUNS,
    address: Address = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search, retrain the best, look at the test set once, export and report."""
    from search.engine.place import place
    from search.record.lock import hold
    from search.run import new_study

    folder = absolute(runs)
    origin = None if parent is None else open_named(parent, runs)
    text = None
    if origin is not None and config is None and preset is None:
        config = child_file(origin)
        if config is None:
            text = child_text(origin)
        elif not quiet:
            sys.stderr.write(f"child.yaml of {origin.name} is used\n")
    resolved = resolve(config, preset, overrides, data, name, text)
    if name is None:
        resolved = resolved.model_copy(update={"study": _free_name(resolved.study, folder)})
    level = verbosity(quiet or as_json, verbose)
    with place(address) as cluster:
        study, images = new_study(resolved, folder, level, cluster, parent=origin)
        with hold(study):
            go_on(study, images, level, as_json, cluster)


@app.command()
def plan(
    config: Config = None,
    preset: Preset = None,
    overrides: Overrides = None,
    data: Data = None,
    probe_seconds: Annotated[
        float, typer.Option(min=1, help="How long to train on trial configurations.")
    ] = 20,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Probe this machine: say what a study would take, or why it cannot be."""
    from search.plan.plan import make_plan
    from search.plan.plan_page import plan_page

    resolved = resolve(config, preset, overrides, data, None)
    planned = make_plan(resolved, absolute(runs), probe_seconds, quiet=as_json)
    show(planned.to_dict(), as_json, lambda: plan_page(planned))
    for reason in planned.refusals:
        sys.stderr.write(f"error: {reason}\n")
    if planned.refusals:
        raise typer.Exit(2)


@app.command()
def resume(
    study: StudyName,
    runs: Runs = DEFAULT_RUNS,
    address: GoOnAt = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a study that was interrupted, from its record."""
    if is_elsewhere(address):
        hand_over(str(address), study, ["resume"], runs)
        return
    from search.engine.place import place
    from search.record.lock import hold
    from search.run import check_nodes, reopen_images

    level = verbosity(quiet or as_json, verbose)
    opened = open_named(study, runs)
    with hold(opened), place(address) as cluster:
        images = reopen_images(opened)
        if cluster is not None:
            check_nodes(cluster, opened.config, images, opened.folder.parent)
        go_on(opened, images, level, as_json, cluster)


@app.command()
def stop(
    study: StudyName,
    now: Annotated[bool, typer.Option("--now", help="Not after the current epochs.")] = False,
    runs: Runs = DEFAULT_RUNS,
    address: ThereToo = None,
) -> None:
    """Ask who works on a study to stop, and wait for that: from any terminal."""
    if address is not None:
        ask(address, ["stop", study, *(["--now"] if now else [])], runs)
        return
    from search.record.stop import ask_to_stop

    ask_to_stop(open_named(study, runs), now=now, say=typer.echo)


@app.command()
def status(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study; all of them if left out.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    address: ThereToo = None,
    as_json: AsJson = False,
) -> None:
    """Show how a study stands, also while it runs."""
    if address is not None:
        words = [*([study] if study else []), *(["--json"] if as_json else [])]
        ask(address, ["status", *words], runs)
        return
    from search.record.study import StudyError
    from search.screen.progress import status_table, studies_table
    from search.screen.result import summarise

    if study is not None:
        opened = open_named(study, runs)
        show(summarise(opened), as_json, lambda: status_table(opened))
        return
    files = (
        path for name in ("config.yaml", "study.db") for path in absolute(runs).glob(f"*/{name}")
    )
    found = sorted({path.parent for path in files})
    summaries = []
    for folder in found if as_json else ():
        try:
            summaries.append(summarise(open_named(str(folder), runs)))
        except StudyError as error:
            summaries.append({"study": folder.name, "error": str(error)})
    show(summaries, as_json, lambda: studies_table(found))


app.add_typer(results)  # without a name: its commands stand beside those above
app.add_typer(models)
app.add_typer(care)
app.add_typer(clusters)


def main() -> None:
    """Run a command; turn what goes wrong into one line and exit code 2."""
    try:
        app()
    except Exception as error:
        if _options["debug"]:
            raise
        sys.stderr.write(f"error: {_told(error)}\n")
        sys.exit(2)


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and is_disk_full(error):
        where = f" of {Path(str(error.filename)).parent}" if error.filename else ""
        return f"the disk{where} is full: free some space and try again"
    text = str(error)
    if not isinstance(error, OneLineError | ValueError | OSError):
        text = (
            f"{type(error).__name__}: {text}; a fault of this program, or a damaged study (see"
            " `doctor`): `python -m search --debug COMMAND` shows where"
        )
    return str(OneLineError(text))


def _free_name(name: str, runs: Path) -> str:
    # A second `make search` is a second study, not an error and not an overwrite.
    taken, number, free = {path.name for path in runs.glob("*")}, 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
