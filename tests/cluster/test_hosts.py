"""The hosts that the cluster's test stands on: apart from each other, and gone with their test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Lan, missing
from launch import must_have_hosts, wait_for

pytestmark = pytest.mark.timeout(60)
LOGIN = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    """Return an empty network."""
    must_have_hosts()
    with Lan(tmp_path / "lan") as lan:
        yield lan


def test_each_host_is_a_machine_of_its_own(lan: Lan) -> None:
    first, second = lan.host("first", 1), lan.host("second", 2, shared=False)
    laptop = lan.host("laptop", 100, sshd=False)
    for host in (first, second, laptop):
        host.boot()
        host.sh(f"echo {host.name} | tee ~/mine /tmp/mine /run/mine /dev/shm/mine")
    told = laptop.sh(f"{LOGIN} root@second 'hostname; whoami; cat ~/mine /tmp/mine /dev/shm/mine'")
    assert told.stdout.split() == ["second", "root", "second", "second", "second"]
    # One sees what another puts into the shared folder; a host without that folder does not.
    first.sh("touch /mnt/shared/word")
    assert laptop.sh("ls /mnt/shared").stdout.split() == ["word"]
    assert second.sh("ls /mnt/shared").stdout.split() == []
    # The others' processes are out of reach, and no route leads out of the network.
    second.sh("sleep 987 >/dev/null 2>&1 &")
    assert "sleep 987" in second.processes().values()
    assert "sleep 987" not in first.sh("ps -eo args").stdout
    assert first.sh("ip route").stdout.split()[0] == "10.77.0.0/24"
    assert len(first.sh("ip route").stdout.splitlines()) == 1


def test_a_host_without_power_answers_nothing_and_comes_back_with_its_disk(lan: Lan) -> None:
    host, laptop = lan.host("host", 1), lan.host("laptop", 100, sshd=False)
    host.boot()
    laptop.boot()
    host.sh("echo kept > ~/file; echo kept > /tmp/file; touch /dev/shm/gone")
    host.sh("sleep 987 >/dev/null 2>&1 &")
    host.cut_power()
    assert not host.on and host.processes() == {}
    answer = laptop.sh(f"{LOGIN} -o ConnectTimeout=1 root@host true", check=False)
    assert answer.returncode == 255
    host.boot()
    assert host.sh("cat ~/file /tmp/file; ls /dev/shm").stdout.split() == ["kept", "kept"]
    assert "sleep 987" not in host.processes().values()
    wait_for(
        lambda: laptop.sh(f"{LOGIN} root@host true", check=False).returncode == 0, "a login", 20
    )


@pytest.mark.skipif(missing() != "", reason="hosts cannot be made here")
def test_hosts_end_with_a_test_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, time, hosts\n"
        f"with hosts.Lan(pathlib.Path({str(tmp_path / 'lan')!r})) as lan:\n"
        "    host = lan.host('host', 1)\n"
        "    host.boot()\n"
        "    sleep = host.popen('sleep 986')\n"
        "    print(*host.processes(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    test = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert test.stdout is not None
    started = [int(word) for word in test.stdout.readline().split()]
    assert started
    os.kill(test.pid, signal.SIGKILL)
    test.wait()
    test.stdout.close()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "their end", 10)
