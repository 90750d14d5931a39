"""The commands that look after studies: more budget, less disk, what is wrong.

`search.cli` adds them to its own. Heavy modules are imported inside each command.
"""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli_cluster import hand_over, is_elsewhere
from search.cli_options import (
    DEFAULT_RUNS,
    AsJson,
    GoOnAt,
    Quiet,
    Runs,
    StudyName,
    Verbose,
    absolute,
    go_on,
    open_named,
    show,
    study_folder,
    verbosity,
)

care = typer.Typer()


@care.command()
def gc(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="A study, or its folder; all if left out."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; only say.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="Best ended trials that keep a checkpoint."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Free the disk of checkpoints and half-written files that no study needs."""
    from search.care.gc import collect, collect_all, freed_page

    if study is not None:
        found = [collect(study_folder(study, runs), keep=keep, dry_run=dry_run)]
    else:
        found = collect_all(absolute(runs), keep=keep, dry_run=dry_run)
    content = {"dry_run": dry_run, "bytes": sum(f.size for f in found)}
    show(
        content | {"studies": [f.to_dict() for f in found]},
        as_json,
        lambda: freed_page(found, dry_run=dry_run),
    )


@care.command()
def extend(
    study: StudyName,
    trials: Annotated[str | None, typer.Option(help="+50 for more, or 200 in all.")] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Of all trials together: +500, or 2000.")
    ] = None,
    minutes: Annotated[str | None, typer.Option(help="Of searching: +30, or 90 in all.")] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Train for so long; the best so far anew.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    address: GoOnAt = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Raise the budget of a study, finished or not, and go on with it."""
    if is_elsewhere(address):
        given = {"trials": trials, "epochs": epochs, "minutes": minutes, "max-epochs": max_epochs}
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        hand_over(str(address), study, ["extend", *words], runs)
        return
    from search.drive.extend import Wish
    from search.drive.extend import extend as raise_budget
    from search.engine.place import place
    from search.record.lock import hold
    from search.run import check_nodes, reopen_images

    opened = open_named(study, runs)
    with hold(opened), place(address) as cluster:
        images = reopen_images(opened)  # before anything is changed
        if cluster is not None:
            check_nodes(cluster, opened.config, images, opened.folder.parent)
        wish = Wish(trials=trials, epochs=epochs, minutes=minutes, max_epochs=max_epochs)
        opened, said = raise_budget(opened, wish)
        for line in said if not (quiet or as_json) else ():
            typer.echo(line, err=True)
        go_on(opened, images, verbosity(quiet or as_json, verbose), as_json, cluster)


@care.command()
def reproduce(
    study: StudyName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="t0017, or just 17.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Train for so many at most.")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Train a trial again, here and now, as its worker did; its record stays as it is."""
    from search.reproduce import reproduce as train

    if not train(open_named(study, runs), trial, epochs, typer.echo):
        raise typer.Exit(1)


@care.command()
def doctor(
    study: StudyName,
    check: Annotated[bool, typer.Option("--check", help="Mend nothing; only say.")] = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Check the record and files of a study and mend them; exit code 1 if something is left."""
    import json

    from search.care.doctor import examine

    found = examine(study_folder(study, runs), check=check)
    # Not a table: commands to copy stay on one line, however narrow the terminal.
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    if not found.is_well:
        raise typer.Exit(1)
