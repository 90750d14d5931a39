"""What is wrong with a cluster is told in one line before anything is made: on three hosts.

Ray is started on them by hand, with a token, as `cluster.yaml` starts it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hosts import HOME, SHARED, Host, Lan
from launch import CHECKOUT, VENV, must_have_hosts, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ADDRESS = "http://10.77.0.1:8265"
RUNS = f"{SHARED}/runs"
STUDY = {
    "study": "never",
    "max_epochs": 1,
    "data": {"source": "synthetic", "synthetic_train": 2000, "validation_images": 500},
    "space": {"num_blocks": 1, "filters": 4, "learning_rate": 0.1},
    "baselines": [],
    "budget": {"trials": 1},
    "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0},
}
OTHER = ".other"
"""Folder of each worker's home in which Python looks for packages first."""


class Site:
    """A head, two workers and a laptop, of which the laptop has a study file."""

    def __init__(self, lan: Lan) -> None:
        """Boot the hosts and start Ray."""
        self.lan, self.token = lan, secrets.token_hex(32)
        self.head = lan.host("head", 1)
        self.workers = [lan.host("one", 2), lan.host("two", 3)]
        self.laptop = lan.host("laptop", 100, sshd=False)
        for host in lan.hosts.values():
            host.boot()
            (host.home / ".ray").mkdir()
            (host.home / ".ray" / "auth_token").write_text(self.token)
        (self.laptop.home / "never.yaml").write_text(yaml.safe_dump(STUDY))
        start = "--disable-usage-stats --object-store-memory=100000000"
        on(
            self.head,
            f"ray start --head --port=6379 --num-cpus=0 --dashboard-host=10.77.0.1 {start}",
        )
        for host in self.workers:
            (host.home / OTHER).mkdir()
            paths = f"export PYTHONPATH={HOME}/{OTHER}"
            on(host, f"{paths}; ray start --address=10.77.0.1:6379 --num-cpus=1 {start}")

    def submit(self, environment: str = "") -> str:
        """Return the one line with which `submit` refuses.

        Raises:
            AssertionError: It did not refuse, or said more, or something was made.
        """
        command = f"python -m search submit ~/never.yaml --address {ADDRESS} --runs {RUNS}"
        answer = on(self.laptop, f"cd {CHECKOUT}; {environment} {command}", check=False)
        assert answer.returncode == 2, answer.stdout + answer.stderr
        return self.refusal(answer.stderr)

    def refusal(self, said: str) -> str:
        """Return the one error of what was said; nothing was made, here or on the cluster."""
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and said.endswith(f"{errors[0]}\n"), said
        assert "Traceback" not in said
        runs = self.lan.shared / "runs"
        assert not runs.exists() or list(runs.iterdir()) == []
        assert self.token not in said
        return errors[0]


def on(host: Host, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script on a host, with our packages and the cluster's token."""
    path = f"export PATH={shlex.quote(str(VENV / 'bin'))}:$PATH PYTHONDONTWRITEBYTECODE=1"
    return host.sh(f"{path} RAY_AUTH_MODE=token; {script}", check=check)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return the hosts, Ray started on them."""
    must_have_hosts()
    with Lan(tmp_path_factory.mktemp("site") / "lan", visible=[CHECKOUT, VENV]) as lan:
        yield Site(lan)


def test_a_wrong_token_is_told(site: Site) -> None:
    said = site.submit(f"RAY_AUTH_TOKEN={secrets.token_hex(32)}")
    assert f"{ADDRESS} asks for a token" in said and "nothing was begun" in said


def test_a_missing_token_is_told(site: Site) -> None:
    said = site.submit("env -u RAY_AUTH_MODE HOME=/tmp")
    assert f"{ADDRESS} asks for a token" in said and "is missing" in said


def test_a_node_with_other_versions_is_named(site: Site) -> None:
    # What is installed there says that it is another NumPy.
    stated = site.workers[1].home / OTHER / "numpy-1.2.3.dist-info"
    stated.mkdir()
    (stated / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.2.3\n")
    said = site.submit()
    assert f"two has numpy 1.2.3, but the driver has {metadata.version('numpy')}" in said
    (stated / "METADATA").unlink()
    stated.rmdir()


def test_a_node_that_does_not_see_the_folder_of_studies_is_named(site: Site) -> None:
    site.workers[1].sh(f"umount {SHARED}")
    said = site.submit()
    assert f"two does not see {RUNS}" in said


def test_a_cluster_that_dies_meanwhile_leaves_nothing_half_done(site: Site, tmp_path: Path) -> None:
    command = f"python -m search submit ~/never.yaml --address {ADDRESS} --runs {HOME}/own"
    path = f"export PATH={shlex.quote(str(VENV / 'bin'))}:$PATH RAY_AUTH_MODE=token"
    with (tmp_path / "said").open("w") as file:
        submit = site.laptop.popen(f"{path}; cd {CHECKOUT}; {command}", stderr=file)
        wait_for(lambda: "job " in (tmp_path / "said").read_text(), "the job to be sent", 60, 0.05)
        ours = site.head.processes()
        for pid in [pid for pid, line in ours.items() if "ray" in line and "sshd" not in line]:
            os.kill(pid, signal.SIGKILL)
        assert submit.wait(90) == 2
    said = site.refusal((tmp_path / "said").read_text())
    assert f"the cluster at {ADDRESS} does not answer" in said
    assert "whether never was begun is not known" in said
    # Once it is dead, the answer comes at once and is clear.
    assert "nothing was begun" in site.submit()
