"""How long a study takes to go on: from the command to its first trial, by the number of trials.

    python benchmarks/resuming.py --trials 1000 --json OUT

A study on synthetic images is begun and most of it made up, without training, as in `asking.py`.
Then `resume` is called as a person would, and the record asked when the first trial was handed out
and when it had its first epoch. Opening and rebuilding are timed apart, in this process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

from rich.console import Console
from rich.table import Table

from benchmarks.asking import search_without_training
from search.config.config import DataSection
from search.config.config_file import load_config
from search.drive.driver import Driver
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT, plan_slots
from search.prune.settle import settle
from search.record.dataset import load_images
from search.record.study import Study, create, open_study

_MOST_SECONDS = 120.0


def main() -> None:
    """Make a study, resume it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = DataSection(
        source="synthetic", synthetic_train=2000, synthetic_test=100, validation_images=500
    )
    # Proposals at random while it is made up: a model would take most of the time, and is only
    # asked for the first proposal of the session that is timed.
    overrides = [
        f"budget={{trials: {options.trials + 20}}}",
        "sampler.kind=random",
        f"data={json.dumps(data.model_dump())}",
    ]
    config = load_config(None, preset="laptop", overrides=overrides)
    slots = plan_slots(config.resources).count
    images = load_images(config.data)
    with tempfile.TemporaryDirectory(prefix="resuming-") as folder:
        study = create(
            settle(config, slots=slots),
            Path(folder) / "study",
            facts={"data": images.facts()},
            environment=describe_environment(CHECKOUT),
        )
        search_without_training(study, slots, trials=options.trials)
        study.set_state("stopped")
        answer: dict[str, float] = {"trials": len(study.trials())}
        answer["epochs"] = len(study.record.epochs())
        _rename_sampler(study)
        begun = time.perf_counter()
        opened = open_study(study.folder)
        answer["open_seconds"] = time.perf_counter() - begun
        begun = time.perf_counter()
        Driver(opened, shape=images.train.shape, slots=slots)
        answer["rebuild_seconds"] = time.perf_counter() - begun
        answer |= _resume(opened)
    table = Table(title=f"Resume of {answer['trials']:,} trials, {answer['epochs']:,} epochs")
    for name, value in answer.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def _rename_sampler(study: Study) -> None:
    path = study.folder / "config.yaml"
    text = path.read_text(encoding="utf-8").replace("kind: random", "kind: fidelity")
    path.write_text(text, encoding="utf-8")


def _resume(study: Study) -> dict[str, float]:
    """Return the seconds from the command to the first hand-out, its start, and its epoch."""
    known = {(row["trial"], row["attempt"]) for row in study.record.attempts()}
    last = study.record.events()[-1].id
    begun = time.time()
    command = [sys.executable, "-m", "search", "resume", str(study.folder), "-q"]
    driver = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    try:
        while time.time() - begun < _MOST_SECONDS:
            time.sleep(0.2)
            epochs = [e for e in study.record.events(kind="epoch") if e.id > last]
            if epochs:
                rows = study.record.attempts()
                new = [row for row in rows if (row["trial"], row["attempt"]) not in known]
                return {
                    "handed_out_seconds": min(row["started_at"] for row in new) - begun,
                    "first_epoch_seconds": epochs[0].at - begun,
                }
    finally:
        driver.terminate()
        driver.wait()
    raise TimeoutError(f"no epoch within {_MOST_SECONDS:.0f} seconds")


if __name__ == "__main__":
    main()
