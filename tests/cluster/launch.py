"""A Ray cluster on hosts of tests, brought up as its user would: by `ray up` from a laptop.

The cluster is that of our own `cluster.yaml`, its on-premise block uncommented. Three things are
changed, and said in `Cluster.file`: packages are not installed (there is no internet), workers are
made small, and the site's addresses are filled in. The laptop has a checkout of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import HOME, Host, Lan, missing

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = Path(sys.prefix)
FILE = CHECKOUT / "cluster.yaml"
REQUIRED = "FASHION_SEARCH_CLUSTER_TEST"
"""Set to `required`, no test of hosts is skipped."""
ADDRESS = "http://localhost:8265"
"""The cluster, as seen from the laptop through the tunnel of `ray dashboard`."""

_CHECKED_OUT = ("data", "model", "search", "cluster", "cluster.yaml", "pyproject.toml")
_SMALL = "--num-cpus=1 --object-store-memory=200000000"
_RAY = re.compile(r"raylet|gcs_server|ray::|/ray/|ray start|monitor\.py")


def must_have_hosts() -> None:
    """Skip the test where hosts cannot be made; fail it where they must be: in our own CI."""
    _must_not_lack(missing())


def must_have_images() -> Path:
    """Return the folder of Fashion-MNIST's files, for hosts without internet; or skip or fail."""
    folder = os.environ.get("FASHION_MNIST_DIR", "")
    _must_not_lack("" if folder else "hosts have no internet, and FASHION_MNIST_DIR is not set")
    return Path(folder)


def _must_not_lack(reason: str) -> None:
    if not reason:
        return
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(f"{REQUIRED}=required, but {reason}")
    pytest.skip(reason)


def on_premise(text: str) -> dict[str, Any]:
    """Return cluster.yaml as its user changes it for machines of their own.

    That is what the file says: the block "AWS" deleted, the block "on premise" uncommented.
    """
    without = re.sub(r"(?ms)^# --- AWS ---\n.*?^# --- end of AWS ---\n", "", text)
    block = re.search(r"(?ms)^# --- on premise ---\n(.*?)^# --- end of on premise ---\n", without)
    assert block and without != text, "the file has lost its marks"
    ours = re.sub(r"(?m)^# ", "", block[1])
    return dict(yaml.safe_load(without.replace(block[1], ours)))


def wait_for(come: Callable[[], Any], what: str, seconds: float, pause_s: float = 0.3) -> Any:
    """Return what `come` returns as soon as it is true.

    Raises:
        AssertionError: It was not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not (found := come()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(pause_s)
    return found


class Cluster:
    """A head, workers, on or off, and a laptop on one network."""

    def __init__(
        self, lan: Lan, workers: int, settings: dict[str, str], cores: float | None = None
    ) -> None:
        """Make the hosts.

        Args:
            lan: To make them on.
            workers: How many beside the head and the laptop.
            settings: Environment variables that all hosts have.
            cores: How much of this machine's cores each worker may use; None for all.
        """
        self.lan = lan
        self.head = lan.host("head", 1)
        numbers = range(1, workers + 1)
        self.workers = [lan.host(f"worker{n}", 1 + n, cores=cores) for n in numbers]
        self.laptop = lan.host("laptop", 100, sshd=False)
        self._settings = settings
        self._tunnel: subprocess.Popen[str] | None = None

    def boot(self, workers: Sequence[Host]) -> None:
        """Switch on the head, the laptop and these workers."""
        for host in (self.head, *self.workers):
            # What stands on the site's machines already: the packages, and where the images are.
            place = host.home / ".fashion-search"
            place.mkdir(parents=True)
            (place / "venv").symlink_to(VENV)
            (host.home / ".bashrc").write_text(f"export {self._exports()}\n")
        for name in _CHECKED_OUT:
            path, copy = CHECKOUT / name, self.laptop.home / "checkout" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, copy)
        for host in (self.head, self.laptop, *workers):
            host.boot()

    def file(self) -> dict[str, Any]:
        """Return our cluster.yaml for these hosts."""
        config = on_premise(FILE.read_text(encoding="utf-8"))
        config["provider"]["head_ip"] = self.head.address
        config["provider"]["worker_ips"] = [host.address for host in self.workers]
        config["auth"] = {"ssh_user": "root", "ssh_private_key": f"{HOME}/.ssh/id_ed25519"}
        # There is no internet, and the packages are in place: see `boot`.
        install = [line for line in config["setup_commands"] if "pip install" in line]
        make = [line for line in config["setup_commands"] if "-m venv" in line]
        assert len(install) == len(make) == 1
        config["setup_commands"].remove(install[0])
        config["setup_commands"].remove(make[0])
        # Every host believes it has all of this machine: one trial at a time on each worker.
        config["worker_start_ray_commands"][-1] += f" {_SMALL}"
        config["head_start_ray_commands"][-1] += " --object-store-memory=200000000"
        return config

    def user(self, script: str, timeout_s: float = 180, check: bool = True) -> Any:
        """Run a script in the laptop's checkout, as the cluster's user."""
        return self.laptop.sh(self._as_user(script), timeout_s, check)

    def user_starts(self, script: str, **more: Any) -> subprocess.Popen[str]:
        """Start a script in the laptop's checkout."""
        return self.laptop.popen(self._as_user(script), **more)

    def up(self) -> None:
        """Make a token, bring the cluster up, and open the tunnel to its head."""
        self.user("ray get-auth-token --generate")
        path = self.laptop.home / "cluster.yaml"
        path.write_text(yaml.safe_dump(self.file(), sort_keys=False, width=1000))
        self.user("ray up -y --no-config-cache ~/cluster.yaml")
        self.open_tunnel()

    def open_tunnel(self) -> None:
        """Let the laptop reach the head's dashboard, at `ADDRESS`, until it is switched off."""
        with (self.laptop.home / "tunnel.log").open("ab") as log:
            self._tunnel = self.user_starts(
                "exec ray dashboard ~/cluster.yaml", stdout=log, stderr=log
            )
        wait_for(self.nodes, "the tunnel to the head", 60)

    def close_laptop(self) -> None:
        """Switch the laptop off, its tunnel with it."""
        self.laptop.cut_power()
        if self._tunnel is not None:
            self._tunnel.wait(10)
            self._tunnel = None

    def nodes(self) -> set[str]:
        """Return the addresses of the nodes that live, as the head tells them."""
        ask = (
            "import json, pathlib, urllib.request as web\n"
            "token = pathlib.Path('~/.ray/auth_token').expanduser().read_text().strip()\n"
            f"ask = web.Request('{ADDRESS}/api/v0/nodes?limit=99')\n"
            "ask.add_header('Authorization', f'Bearer {token}')\n"
            "print(web.urlopen(ask, timeout=5).read().decode())\n"
        )
        answer = self.user(f"python -c {shlex.quote(ask)}", check=False)
        if answer.returncode:
            return set()
        rows = json.loads(answer.stdout)["data"]["result"]["result"]
        return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}

    def down(self) -> dict[str, list[str]]:
        """Bring the cluster down; return what is left of Ray, by host.

        `ray down` stops the head; on premise its user stops the workers, as the README says.
        """
        if not self.laptop.on:
            self.laptop.boot()
        self.user("ray down -y ~/cluster.yaml")
        running = [host for host in self.workers if host.on]
        login = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        stops = [
            self.user_starts(
                f"{login} root@{host.address} .fashion-search/venv/bin/ray stop --force",
                stdout=subprocess.DEVNULL,
            )
            for host in running
        ]
        for stop in stops:
            stop.wait(60)
        if self._tunnel is not None:
            self._tunnel.terminate()
            self._tunnel.wait(10)
        left = {
            host.name: [line for line in host.processes().values() if _RAY.search(line)]
            for host in (self.head, *running)
        }
        return {name: lines for name, lines in left.items() if lines}

    def _as_user(self, script: str) -> str:
        path = f"export PATH={shlex.quote(str(VENV / 'bin'))}:$PATH RAY_AUTH_MODE=token"
        return f"{path} {self._exports()} PYTHONDONTWRITEBYTECODE=1; cd ~/checkout; {script}"

    def _exports(self) -> str:
        return " ".join(f"{key}={shlex.quote(value)}" for key, value in self._settings.items())


@contextmanager
def cluster(
    folder: Path, workers: int, images: Path, cores: float | None = None
) -> Iterator[Cluster]:
    """Give a cluster whose hosts are off; all of it ends with the block, whatever happens.

    Args:
        folder: New, for the hosts' files.
        workers: How many beside the head and the laptop.
        images: Folder of Fashion-MNIST's files: hosts have no internet.
        cores: How much of this machine's cores each worker may use; None for all.
    """
    settings = {
        "FASHION_MNIST_DIR": str(images),
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",  # look for hosts more often than every 5 s
    }
    with Lan(folder, visible=[CHECKOUT, VENV, images]) as lan:
        yield Cluster(lan, workers, settings, cores)
