"""From a laptop to three machines: a study that outlives a laptop, loses a host and gains one.

The cluster is brought up by `ray up` with our cluster.yaml, its on-premise form; see `launch`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import SHARED
from launch import ADDRESS, VENV, Cluster, cluster, must_have_hosts, must_have_images, wait_for
from told import Attempt, attempts, busy_nodes, check_nothing_lost_or_doubled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A trial must take longer than a worker's process takes to start: until that has, Tune gives each
# new trial to a process that has just become free, and a host that was added gets none.
TRIALS, EPOCHS = 6, 6
STUDY: dict[str, Any] = {
    "max_epochs": EPOCHS,
    "data": {"source": "fashion-mnist", "train_images": 30000, "validation_images": 2000},
    "space": {
        "num_blocks": 2,
        "filters": {"choice": [8, 12, 16], "per_block": True},
        "learning_rate": {"float": [0.02, 0.5], "log": True},
        "batch_size": 128,
    },
    "baselines": [],
    "sampler": {"startup_trials": 4},
    "asha": {"form": "stopping", "grace_epochs": 3, "reduction_factor": 3, "audit_share": 0.0},
    "budget": {"trials": TRIALS},
    "resources": {"gpus_per_trial": 0.0},
    "final": {
        "finalists": 1,
        "race_baselines": False,
        "rounds": 2,
        "seeds": 1,
        "baseline_seeds": 0,
        "export": False,
    },
}
# What a host without the token gets from each port of another: text, or nothing.
STRANGER = """
import http.client, json, sys, urllib.request as web
told = {}
for port in sys.argv[2:]:
    told[port] = ""
    for path in ("", "api/jobs/", "api/v0/nodes", "nodes", "logs"):
        try:
            with web.urlopen(f"http://{sys.argv[1]}:{port}/{path}", timeout=2) as answer:
                told[port] = told[port] or answer.read(300).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            pass  # refused, with or without a word
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Bring up a head and two workers; afterwards bring all down, and find nothing left of Ray."""
    must_have_hosts()
    images = must_have_images()
    with cluster(tmp_path_factory.mktemp("site") / "lan", 3, images) as site:
        site.boot(site.workers[:2])
        site.up()
        wait_for(lambda: len(site.nodes()) == 3, "two workers", 90)
        yield site
        assert site.down() == {}


def test_the_head_tells_strangers_nothing_but_rays_own_figures(site: Cluster) -> None:
    listening = [line.split()[3] for line in site.head.sh("ss -Htln").stdout.splitlines()]
    assert "127.0.0.1:8265" in listening
    assert [place for place in listening if place.endswith(":8265")] == ["127.0.0.1:8265"]
    ports = sorted({int(place.rpartition(":")[2]) for place in listening} - {22})
    asked = f"{VENV}/bin/python -c {shlex.quote(STRANGER)} {site.head.address}"
    told = json.loads(site.workers[0].sh(f"{asked} {' '.join(map(str, ports))}").stdout)
    assert set(told) == set(map(str, ports)) and len(ports) > 5
    answers = {port: text for port, text in told.items() if text}
    assert all(text.startswith("# HELP ") for text in answers.values()), answers


def test_a_study_outlives_the_laptop_and_a_host_and_uses_one_that_joins(site: Cluster) -> None:
    """With a folder that all hosts share."""
    first, _, third = site.workers
    study, where = site.lan.shared / "runs" / "shared", f"--runs {SHARED}/runs"
    submit(site, "shared", where)
    wait_for(lambda: {"worker1", "worker2"} <= set(busy_nodes(study)), "both at work", 120)
    status = ask(site, f"status shared --json --address {ADDRESS} {where}")
    assert status["state"] == "searching" and status["alive"]

    site.close_laptop()
    victim = wait_for(lambda: running_on(study, "worker1"), "two epochs of a trial", 90, 0.05)
    first.cut_power()
    third.boot()
    wait_for(lambda: "worker3" in busy_nodes(study), "the host that was added", 180)

    wait_for((study / "result.json").exists, "the result", 180)
    site.laptop.boot()
    site.open_tunnel()
    check_finished(site, "shared", where)
    check_nothing_lost_or_doubled(study, TRIALS, EPOCHS)
    check_moved(study, victim)
    home = check_at_home(site, "shared", where)
    (home / "report.html").unlink()
    site.user("python -m search report shared && python -m search export shared --out ~/model")
    assert (home / "report.html").exists()
    assert (site.laptop.home / "model" / "SHA256SUMS").exists()


def test_a_host_comes_back_and_checkpoints_move_without_a_shared_folder(site: Cluster) -> None:
    """In the head's own folder of studies, which no other host sees."""
    first, second, _ = site.workers
    study = site.head.home / "fashion-search" / "relayed"
    first.boot()
    wait_for(lambda: len(site.nodes()) == 4, "the host that was lost", 120, 1)
    submit(site, "relayed", "", budget={"trials": 3}, data=STUDY["data"] | {"train_images": 12000})
    victim = wait_for(lambda: running_on(study, "worker2"), "two epochs of a trial", 120, 0.05)
    second.cut_power()
    wait_for((study / "result.json").exists, "the result", 180)
    check_finished(site, "relayed", "")
    check_nothing_lost_or_doubled(study, 3, EPOCHS)
    check_moved(study, victim)
    check_at_home(site, "relayed", "")


def submit(site: Cluster, name: str, where: str, **changes: Any) -> None:
    """Hand a study over to the cluster, as its user does."""
    path = site.laptop.home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes | {"study": name}), encoding="utf-8")
    site.user(f"python -m search submit ~/{name}.yaml --address {ADDRESS} {where}")


def ask(site: Cluster, command: str) -> dict[str, Any]:
    """Return what one of our commands prints as JSON."""
    answer: dict[str, Any] = json.loads(site.user(f"python -m search {command}").stdout)
    return answer


def running_on(study: Path, node: str) -> Attempt | None:
    """Return the attempt that a node is at, once it has trained two epochs and has some to go."""
    for attempt in attempts(study):
        epochs = attempt.epochs
        here = attempt.node == node and attempt.ended_at is None
        if here and len(epochs) >= 2 and epochs[-1] < EPOCHS:
            return attempt
    return None


def lost(study: Path) -> list[Attempt]:
    """Return the attempts that ended with their node."""
    return [attempt for attempt in attempts(study) if attempt.failure == "node lost"]


def check_finished(site: Cluster, name: str, where: str) -> None:
    """Wait for the study's last step, and assert that it is told as finished."""
    command = f"status {name} --json --address {ADDRESS} {where}"
    status = wait_for(lambda: over(ask(site, command)), "the end of the study", 90, 1)
    assert status["state"] == "finished"
    assert status["trials"]["failed"] == status["trials"]["unfinished"] == 0


def over(status: dict[str, Any]) -> dict[str, Any] | None:
    """Return a study's status if nobody works on it any more."""
    return None if status["alive"] else status


def check_moved(study: Path, victim: Attempt) -> None:
    """Assert that the victim's trial went on elsewhere, from its last checkpoint."""
    told = {(attempt.trial, attempt.attempt): attempt for attempt in attempts(study)}
    ended = told[victim.trial, victim.attempt]
    assert ended.failure == "node lost"
    assert {attempt.node for attempt in lost(study)} == {victim.node}
    after = told[victim.trial, victim.attempt + 1]
    assert after.node != victim.node
    assert after.from_epoch == ended.epochs[-1] >= victim.epochs[-1]


def check_at_home(site: Cluster, name: str, where: str) -> Path:
    """Assert that the study, fetched, is whole on the laptop, where no Ray runs."""
    site.user(f"python -m search fetch {name} --address {ADDRESS} {where}")
    home = site.laptop.home / "checkout" / "runs" / name
    result = json.loads((home / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "finished" and result["study"] == name
    assert result["final"]["test_accuracy"] > 0.6
    assert (home / "report.html").stat().st_size > 10_000
    assert not [line for line in site.laptop.processes().values() if "raylet" in line]
    return home
