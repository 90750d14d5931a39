"""The commands for a Ray cluster elsewhere: hand a study over, watch it, bring it home.

`search.cli` adds them to its own. Heavy modules are imported inside each command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli_options import (
    DEFAULT_RUNS,
    Config,
    Data,
    Overrides,
    Preset,
    Runs,
    StudyName,
    absolute,
    resolve,
    study_folder,
)

clusters = typer.Typer()

There = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The head's dashboard: http://HOST:8265.",
    ),
]
RunsThere = Annotated[
    str | None,
    typer.Option(
        "--runs", metavar="FOLDER", help="Folder of the studies on the head. [~/fashion-search]"
    ),
]


@clusters.command()
def submit(
    address: There,
    config: Config = None,
    preset: Preset = None,
    overrides: Overrides = None,
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    runs: RunsThere = None,
) -> None:
    """Begin a study on a cluster; once its search has begun this machine may be switched off."""
    from search.config.config_file import dump_config
    from search.engine.jobs import Jobs

    if data is not None and data not in ("fashion-mnist", "synthetic") and data[:1] != "/":
        raise ValueError(
            f"--data {data} is a folder of the cluster: give its whole path there, the same on all"
            " nodes"
        )
    resolved = resolve(config, preset, overrides, data, name)
    jobs = Jobs(address)
    words = ["run", "study.yaml", "--name", resolved.study, "--address", "auto"]
    job = jobs.begin(resolved.study, words, runs, {"study.yaml": dump_config(resolved)})
    _watch(jobs, job, resolved.study)


@clusters.command()
def logs(
    study: StudyName,
    address: There,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print what the last job of a study has said on a cluster."""
    from search.engine.jobs import Jobs

    for text in Jobs(address).logs(study, follow=follow):
        typer.echo(text, nl=False)


@clusters.command()
def fetch(
    study: StudyName,
    address: There,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="With those of its trials.")
    ] = False,
    to: Annotated[Path, typer.Option("--to", help="Folder of the studies here.")] = DEFAULT_RUNS,
    runs: RunsThere = None,
) -> None:
    """Bring a study home from a cluster, also while it is being searched."""
    from search.engine.fetching import fetch as bring
    from search.engine.jobs import Jobs

    folder = bring(
        Jobs(address),
        study,
        runs=runs,
        to=absolute(to),
        checkpoints=checkpoints,
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(folder)


@clusters.command(hidden=True)
def pack(
    study: StudyName,
    checkpoints: Annotated[bool, typer.Option("--checkpoints")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Give a study away to `fetch`, which starts this on the head."""
    from search.engine.packing import hand_out

    hand_out(study_folder(study, runs), checkpoints=checkpoints, say=typer.echo)


def is_elsewhere(address: str | None) -> bool:
    """Return whether an address is that of a dashboard, to which commands are sent."""
    return address is not None and address.startswith(("http://", "https://"))


def hand_over(address: str, study: str, words: list[str], runs: Path) -> None:
    """Have a command that searches run on a cluster, until its search has begun."""
    from search.engine.jobs import Jobs

    jobs = Jobs(address)
    job = jobs.begin(study, [words[0], study, *words[1:], "--address", "auto"], _there(runs))
    _watch(jobs, job, study)


def ask(address: str, words: list[str], runs: Path) -> None:
    """Have a command run on a cluster and print what it prints."""
    from search.engine.jobs import Jobs

    for text in Jobs(address).said(words, _there(runs)):
        typer.echo(text, nl=False)


def _watch(jobs: Any, job: str, study: str) -> None:
    at = f"{study} --address {jobs.address}"
    typer.echo(f"job {job} at {jobs.address}", err=True)
    if not jobs.wait_until_begun(job, study, lambda line: typer.echo(line, err=True)):
        return
    typer.echo(
        f"{study} is on its way; this machine is not needed any more. See `status {at}`,"
        f" `logs {at} -f`, `stop {at}`, `fetch {at}`",
        err=True,
    )


def _there(runs: Path) -> str | None:
    return None if runs == DEFAULT_RUNS else str(runs)
