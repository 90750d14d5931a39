"""The same study on 1, 2 and 3 hosts: how long it takes, and how busy the hosts are.

    python benchmarks/hosts.py --hosts 1 2 3 --cores 0.5 --json OUT

A cluster for each number of hosts, brought up by `ray up` as tests/cluster does it: hosts of
namespaces on this machine, a head that trains nothing, one slot a worker. They share this machine's
cores, so each worker is held to `--cores` of one; what that leaves is for the head. Every trial is
trained to its end, so that the work is the same each time. Needs root, sshd, rsync, iproute2 and
FASHION_MNIST_DIR.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `hosts` and `search` would be files of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "cluster"))

import yaml
from rich.console import Console
from rich.table import Table

from search.machine.slots import available_cpus

launch = importlib.import_module("launch")
told = importlib.import_module("told")
SHARED = importlib.import_module("hosts").SHARED

EPOCHS = 4
STUDY: dict[str, Any] = {
    "study": "hosts",
    "max_epochs": EPOCHS,
    "data": {"source": "fashion-mnist", "train_images": 10000, "validation_images": 2000},
    # One network: what differs between runs is the cluster alone.
    "space": {
        "num_blocks": 2,
        "filters": 12,
        "learning_rate": {"float": [0.05, 0.3], "log": True},
        "batch_size": 128,
    },
    "baselines": [],
    "sampler": {"kind": "random"},
    "asha": {"enabled": False},
    "resources": {"gpus_per_trial": 0.0, "hang_seconds": 300.0},
    "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
}


def main() -> None:
    """Run the study on each number of hosts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trials", type=int, default=12, help="a multiple of all --hosts")
    parser.add_argument("--cores", type=float, default=0.5, help="of each worker")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = os.environ.get("FASHION_MNIST_DIR")
    if images is None:
        sys.exit("error: hosts have no internet; set FASHION_MNIST_DIR to the four files' folder")
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        rows = [
            measure(Path(folder) / str(hosts), hosts, options.trials, options.cores, Path(images))
            for hosts in options.hosts
        ]
    for row in rows:
        row["speed_up"] = rows[0]["hosts"] * rows[0]["makespan_seconds"] / row["makespan_seconds"]
        row["efficiency"] = row["speed_up"] / row["hosts"]
    conditions = {
        "cores_of_this_machine": available_cpus(),
        "cores_of_a_worker": options.cores,
        "processor": platform.processor() or platform.machine(),
        "trials": options.trials,
        "epochs_of_a_trial": EPOCHS,
    }
    Console().print(as_table(rows, conditions))
    if options.json is not None:
        options.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=2))


def measure(folder: Path, hosts: int, trials: int, cores: float, images: Path) -> dict[str, Any]:
    """Return what the study takes on so many workers.

    Seconds: `makespan` from the first trial handed out to the last one ended; `busy` of it in
    which a slot had a trial that was training, summed over slots.
    """
    with launch.cluster(folder, hosts, images, cores) as site:
        site.boot(site.workers)
        site.up()
        launch.wait_for(lambda: len(site.nodes()) == 1 + hosts, f"{hosts} workers", 180)
        study = STUDY | {"budget": {"trials": trials}}
        (site.laptop.home / "hosts.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        to = f"--address {launch.ADDRESS} --runs {SHARED}/runs"
        site.user(f"python -m search submit ~/hosts.yaml {to}")
        record = site.lan.shared / "runs" / "hosts"
        launch.wait_for(lambda: searched(record, trials), "the search", 1800, 1)
        attempts = told.attempts(record)
        site.user(f"python -m search stop hosts {to}", check=False)
    told.check_nothing_lost_or_doubled(record, trials, EPOCHS)
    begun = min(attempt.started_at for attempt in attempts)
    makespan = max(attempt.ended_at for attempt in attempts) - begun
    busy = told.training_seconds(record)
    return {
        "hosts": hosts,
        "makespan_seconds": makespan,
        "busy_share": busy / makespan / hosts,
        "first_epoch_after_seconds": told.first_epoch_at(record) - begun,
        "epochs_by_host": told.busy_nodes(record),
    }


def searched(record: Path, trials: int) -> bool:
    """Return whether all trials have ended."""
    attempts = told.attempts(record)
    return len(attempts) >= trials and all(each.ended_at is not None for each in attempts)


def as_table(rows: list[dict[str, Any]], conditions: dict[str, Any]) -> Table:
    """Return the figures for a terminal."""
    table = Table(
        title=f"{conditions['trials']} trials of {EPOCHS} epochs, one slot a host",
        caption=(
            f"each host may use {conditions['cores_of_a_worker']:g} of the"
            f" {conditions['cores_of_this_machine']} cores that all of them share"
        ),
    )
    for heading in ("hosts", "makespan", "speed-up", "efficiency", "busy", "to first epoch"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["hosts"]),
            f"{row['makespan_seconds']:.1f} s",
            f"{row['speed_up']:.2f}",
            f"{row['efficiency']:.0%}",
            f"{row['busy_share']:.0%}",
            f"{row['first_epoch_after_seconds']:.1f} s",
        )
    return table


if __name__ == "__main__":
    main()
