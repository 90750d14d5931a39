"""What all commands share: their options, and the small steps before and after the work.

No heavy imports at module level: `--help` reads this too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only the outcome.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say every epoch.")]
DEFAULT_RUNS = Path("runs")


def open_named(study: str, runs: Path) -> Any:
    """Open a study by its name or its folder."""
    from search.study import open_study

    return open_study(study_folder(study, runs))


def study_folder(study: str, runs: Path) -> Path:
    """Return the folder of a study: of a name, under --runs; anything with a slash is a folder."""
    return (Path(study) if "/" in study else runs / study).resolve()


def data_place(source: str) -> str:
    """Return a data source by its name, or a directory as an absolute path."""
    return source if source in ("fashion-mnist", "synthetic") else str(Path(source).resolve())


def verbosity(quiet: bool, verbose: bool) -> Any:
    """Return the two options as one word."""
    return "quiet" if quiet else "verbose" if verbose else "normal"


def show(content: Any, as_json: bool, table: Callable[[], Any]) -> None:
    """Print `content` as JSON, or what `table` draws."""
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    from rich.console import Console

    Console().print(table())


def show_result(study: Any, result: dict[str, Any], as_json: bool) -> None:
    """Print a study's result as JSON, or its summary."""
    from search.progress import summary

    show(result, as_json, lambda: summary(study))
