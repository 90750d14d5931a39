"""A study from its first trial to its report: search, race, retrain, one look, export, report."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config.config import StudyConfig
from search.drive.keeper import Keeper
from search.drive.session import session
from search.drive.shelf import check_place, check_shelf, claim_shelf
from search.drive.tensorboard import Board, Curves
from search.engine.place import need_of, slots_of
from search.engine.tuner import run_search
from search.final.finalists import RACE, is_raced, race, winner_of
from search.final.look import look_at_test, was_opened_for_others
from search.final.race import MIN_ROUNDS
from search.final.retrain import plan_final_models, retrain
from search.final.training import Progress, sha256
from search.handover.export import export_winner, is_exported
from search.machine.environment import describe_environment
from search.machine.gpu_share import NOTED
from search.machine.needs import check_disk
from search.machine.slots import CHECKOUT
from search.prune.settle import settle
from search.record.dataset import StudyImages, load_images, settle_source
from search.record.study import Study, StudyError, create
from search.record.whole_file import replace_folder, write_json
from search.report.report import write_report
from search.screen.progress import RetrainScreen, Screen, Verbosity, download_progress
from search.screen.result import build_result, final_metrics

if TYPE_CHECKING:
    from search.engine.cluster import Cluster
    from search.record.lineage import Lineage


def new_study(
    config: StudyConfig,
    runs: Path,
    verbosity: Verbosity,
    cluster: Cluster | None = None,
    parent: Study | None = None,
) -> tuple[Study, StudyImages]:
    """Load the data and make the study's folder, `runs/<study>`.

    Args:
        config: The study.
        runs: Folder of the studies.
        verbosity: How much is said of a download.
        cluster: Joined; all its nodes are looked at before anything is made. None for this machine.
        parent: Study whose trials are evidence for this one; it is only read.

    Raises:
        DataError: The data cannot be had and no fallback is set.
        StudyError: The folder is taken, or the store of the checkpoints cannot be used, or no trial
            of the parent is comparable.
        ValueError: A trial asks for more than there is, or a node of the cluster is not fit.
    """
    slots_of(config.resources, cluster)  # refuses what is not there
    check_shelf(config)
    check_place(config)
    with download_progress(verbosity) as progress:
        config, images, substitution = settle_source(config, progress)
    lineage = None if parent is None else _inherit(parent, config, images, verbosity)
    if cluster is not None:
        check_nodes(cluster, config, images, runs)
    need = need_of(config, images.everything, cluster)
    slots = slots_of(config.resources, cluster, need)
    config = settle(config, slots=slots.count)
    facts = {"data": images.facts(), "substitution": substitution}
    if need is not None:
        facts[NOTED] = need.to_dict()
        if verbosity != "quiet":
            sys.stderr.write(f"{need}; so each has {slots.gpus:g} of a GPU\n")
    study = create(
        config,
        runs / config.study,
        facts=facts,
        environment=describe_environment(CHECKOUT),
        lineage=lineage,
    )
    return study, images


def _inherit(
    parent: Study, config: StudyConfig, images: StudyImages, verbosity: Verbosity
) -> Lineage:
    from search.explain.child import bequeath, told

    lineage = bequeath(parent, config, images.fingerprint)
    if verbosity != "quiet":
        sys.stderr.writelines(f"{line}\n" for line in told(lineage))
    return lineage


def reopen_images(study: Study) -> StudyImages:
    """Load the images of an existing study.

    Raises:
        StudyError: They are not the images the study was begun with.
    """
    images = load_images(study.config.data)
    expected = (study.noted("data") or {}).get("fingerprint")
    if images.fingerprint != expected:
        raise StudyError(
            f"the images of {study.config.data.source} are not those {study.name} was begun with"
            f" (fingerprint {images.fingerprint[:12]}, was {str(expected)[:12]})"
        )
    return images


def check_nodes(cluster: Cluster, config: StudyConfig, images: StudyImages, runs: Path) -> None:
    """Look at every node of a cluster before a search, see `search.engine.preflight`.

    Raises:
        ValueError: A node is not fit.
    """
    from search.engine.preflight import preflight

    preflight(cluster, config, images.train, runs)


def search(
    study: Study, images: StudyImages, verbosity: Verbosity, cluster: Cluster | None = None
) -> bool:
    """Search until the budget is spent; return False if it was interrupted before.

    Raises:
        StudyError: The store of the checkpoints cannot be used.
        ValueError: The disk cannot hold what the study needs at least.
    """
    study.note("halted", "")
    need = need_of(study.config, images.everything, cluster, study.noted(NOTED))
    if need is not None:  # begun where there was no GPU
        study.note(NOTED, need.to_dict())
    slots = slots_of(study.config.resources, cluster, need)
    check_disk(study, slots.count)
    check_shelf(study.config)
    claim_shelf(study)
    blocks = study.config.search_space().max_blocks()
    board = Board(study.folder / "trials", max_blocks=blocks)
    if cluster is not None and verbosity != "quiet":
        sys.stderr.write(f"{cluster.describe(slots)}\n")
    try:
        with Screen(study, verbosity=verbosity) as screen:
            keeper = Keeper(study, say=screen.warn)
            # The keeper last: it deletes what no other observer is told of any more.
            driver = run_search(
                study,
                images.train,
                images.validation,
                slots,
                cluster=cluster,
                observers=(board, screen, keeper),
                say=screen.warn,
            )
            keeper.sweep()
    finally:
        board.close()
    study.note("halted", driver.halted)
    return not driver.interrupted


def finish(study: Study, verbosity: Verbosity, cluster: Cluster | None = None) -> dict[str, Any]:
    """Race the finalists, retrain, look at the test set once, export, report; return the result.

    What was done before is not done again, so an interrupted end of a study can be gone on with.
    """
    race_study(study, verbosity, cluster)
    if not is_retrained(study):
        retrain_study(study, verbosity, cluster)
    if "groups" not in final_metrics(study):
        if was_opened_for_others(study):
            # An extended study has other final models: whether they are looked at is not for us.
            sys.stderr.write(
                "the test images were opened before, so the new final models are not tested;"
                f' if they must be: python -m search evaluate {study.name} --break-seal "reason"\n'
            )
        else:
            evaluate_study(study)
        report_study(study)  # the answer is there, whatever happens to the export
    if study.config.final.export and not is_exported(study):
        export_study(study)
    study.set_state("finished")
    return report_study(study)


def race_study(study: Study, verbosity: Verbosity, cluster: Cluster | None = None) -> None:
    """Race the finalists where that is wanted and not done yet, see `search.final.finalists`."""
    if not study.config.final.finalists or is_raced(study):
        return
    if study.state == "finished" and study.noted(RACE) is None:
        return  # by a version that raced nobody: its answer stays
    images = reopen_images(study)
    with ExitStack() as screens, session(study, "race"):

        def say(number: int, most: int) -> Progress:
            screens.close()
            rounds = f"rounds 1 to {number}" if number == MIN_ROUNDS else f"round {number}"
            what = f"finalists, {rounds} of at most {most}"
            return screens.enter_context(RetrainScreen(verbosity=verbosity, what=what))

        race(study, images, say, cluster)


def retrain_study(study: Study, verbosity: Verbosity, cluster: Cluster | None = None) -> None:
    """Train the final models; curves go to final/<model>/. The old ones stay until all are done."""
    images = reopen_images(study)
    part = study.folder / "final.part"
    shutil.rmtree(part, ignore_errors=True)
    curves: dict[str, Curves] = {}
    with session(study, "retrain"), RetrainScreen(verbosity=verbosity) as screen:

        def progress(name: str, epochs: int, metrics: Any) -> None:
            if name not in curves:
                curves[name] = Curves(part / name)
            curves[name].add(metrics)
            screen(name, epochs, metrics)

        try:
            retrain(study, part, images, progress, cluster)
        finally:
            for curve in curves.values():
                curve.close()
    replace_folder(part, study.folder / "final")
    if study.state == "searched":  # a study whose search was interrupted is still to be resumed
        study.set_state("retrained")


def is_retrained(study: Study) -> bool:
    """Return whether final/ holds, unchanged, the models that would be trained now."""
    metrics = final_metrics(study)
    if not metrics or metrics.get("winner_trial") != winner_of(study)[0].name:
        return False
    wanted = {
        model.name: [
            model.epochs,
            model.seed,
            json.loads(json.dumps(model.configuration.to_dict())),
        ]
        for model in plan_final_models(study)
        if model.name not in {row["name"] for row in metrics["diverged"]}
    }
    found = {
        row["name"]: [row["epochs"], row["seed"], row["configuration"]] for row in metrics["models"]
    }
    return wanted == found and all(
        sha256(study.folder / "final" / row["name"] / "model.safetensors") == row["model_sha256"]
        for row in metrics["models"]
    )


def evaluate_study(study: Study, *, break_seal: str | None = None) -> dict[str, Any]:
    """Look at the test set, see `look_at_test`, and return final/metrics.json.

    Raises:
        StudyError: The final models are not those that would be trained now.
    """
    if final_metrics(study) and not is_retrained(study):
        raise StudyError(
            f"the final models of {study.name} are not those that would be trained now, so no look"
            f" is spent on them; go on with `resume {study.name}`, or `retrain {study.name}`"
        )
    with session(study, "evaluate"):
        return look_at_test(
            study,
            reason="final evaluation",
            break_seal=break_seal,
        )


def export_study(study: Study, out_dir: Path | None = None) -> Path:
    """Export the winner's first seed, to the study's own folder or another; see `export_winner`."""
    return export_winner(study, reopen_images(study).everything, out_dir)


def report_study(study: Study) -> dict[str, Any]:
    """Write result.json and the report; return the result."""
    result = build_result(study)
    write_json(study.folder / "result.json", result)
    write_report(study)
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]
