"""What all commands share: their options, and the small steps before and after the work.

No heavy imports at module level: `--help` reads this too.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only the outcome.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say every epoch.")]
Config = Annotated[Path | None, typer.Argument(help="Study file (YAML).")]
Preset = Annotated[
    str | None, typer.Option(help="Study file that comes with the project, by name.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value.")
]
Data = Annotated[str | None, typer.Option(help="fashion-mnist, synthetic, or a directory.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster to train on: auto, or ray://HOST:10001. Else this machine."
    ),
]
GoOnAt = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster to train on: auto, or ray://HOST:10001; of a study on the cluster:"
        " http://HOST:8265. Else this machine.",
    ),
]
ThereToo = Annotated[
    str | None,
    typer.Option("--address", help="Of a study on a cluster: the head, http://HOST:8265."),
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STUDY",
        help="Begin with what the trials of another study say; without a study file, with its"
        " child.yaml, or else the one that `space` would write.",
    ),
]
DEFAULT_RUNS = Path("runs")


def open_named(study: str, runs: Path) -> Any:
    """Open a study by its name or its folder."""
    from search.record.study import open_study

    return open_study(study_folder(study, runs))


def study_folder(study: str, runs: Path) -> Path:
    """Return the folder of a study: of a name, under --runs; anything with a slash is a folder."""
    return absolute(Path(study) if "/" in study else runs / study)


def data_place(source: str) -> str:
    """Return a data source by its name, or a directory as an absolute path."""
    return source if source in ("fashion-mnist", "synthetic") else str(absolute(Path(source)))


def absolute(path: Path) -> Path:
    """Return a path as one that holds from anywhere.

    Raises:
        OSError: Its symbolic links lead in a circle.
    """
    try:
        return path.resolve()
    except RuntimeError:  # what pathlib makes of a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def resolve(
    config: Path | None,
    preset: str | None,
    overrides: list[str] | None,
    data: str | None,
    name: str | None,
    text: str | None = None,
) -> Any:
    """Return the configuration that options ask for; `text` is a study file's content."""
    from search.config.config_file import load_config, load_text

    settings = list(overrides or [])
    if data is not None:
        settings += [f"data.source={json.dumps(data_place(data))}", "data.fallback=null"]
    if name is not None:
        settings.append(f"study={json.dumps(name)}")
    if text is not None:
        return load_text(text, "the child of --from", overrides=settings)
    study_file = None if config is None else absolute(config)
    return load_config(study_file, preset=preset, overrides=settings)


def child_text(parent: Any) -> str:
    """Return the study file of a study's child, as its record advises now."""
    from search.explain.child import child_of

    return child_of(parent).text


def child_file(parent: Any) -> Path | None:
    """Return the study file that `space` has left for a study's child; None without one.

    It may have been edited, and the parent may have gone on since: it is taken as it is.
    """
    file = Path(parent.folder) / "child.yaml"
    return file if file.exists() or file.is_symlink() else None


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


def go_on(study: Any, images: Any, level: Any, as_json: bool, cluster: Any = None) -> None:
    """Search until the budget is spent, then retrain, test, export and report.

    On this machine, or on a cluster that was joined.
    Leaves with exit code 130 where it was interrupted, and 2 where it cannot go on.
    """
    from search.drive.session import end_on_signals, ignore_signals
    from search.record.filesystem import network_warning
    from search.record.study import UNSEARCHED
    from search.run import finish, report_study, search

    if study.config.storage is None and (warning := network_warning(study.folder)):
        sys.stderr.write(f"warning: {warning}\n")
    end_on_signals()
    try:
        done = study.state not in UNSEARCHED
        if done or search(study, images, level, cluster):
            show_result(study, finish(study, level, cluster), as_json, quiet=level == "quiet")
            return
        report_study(study)
    except KeyboardInterrupt:
        pass
    ignore_signals()
    command = f"resume with: python -m search resume {study.name}"
    if halted := study.noted("halted"):
        sys.stderr.write(f"error: {halted}; mend that, then {command}\n")
        sys.exit(2)
    sys.stderr.write(f"stopped; {command}\n")
    sys.exit(130)


def show_result(study: Any, result: dict[str, Any], as_json: bool, *, quiet: bool = False) -> None:
    """Print a study's result as JSON, or its summary, or its outcome alone."""
    from search.screen.progress import outcome, summary

    if quiet and not as_json:
        typer.echo(outcome(study))
        return
    show(result, as_json, lambda: summary(study))
