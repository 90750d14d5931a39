"""Machines for tests: each a host of its own as far as Ray, ssh and rsync can see.

A `Host` is a process tree in its own network, process, mount, host-name and IPC namespaces: its own
address on a private network, its own /tmp, /run, /dev/shm and home, and an ssh server. It shares
the processors, the memory and the installed programs of the machine that runs the test.

    with Lan(folder, visible=[checkout]) as lan:
        head = lan.host("head", 1)
        head.boot()
        head.sh("hostname; ip addr")
        head.cut_power()

Only root may make namespaces. No route leads out of the network: what runs on a host reaches the
other hosts and nothing else. Every host ends with the process that made it, however that ends: its
first process reads from a pipe that only we hold.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cores import Cores

HOME = "/mnt/home"
SHARED = "/mnt/shared"
"""The folder that all hosts share, on those that were made with `shared=True`."""
PROGRAMS = ("unshare", "nsenter", "ip", "ssh", "sshd", "ssh-keygen", "rsync", "mount")

_NETWORK = "10.77.0"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WAIT_S = 20
_FIRST_PROCESS = Path(__file__).parent / "host.sh"
_SSHD = f"""\
HostKey /run/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PidFile /run/sshd.pid
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
MaxStartups 200
MaxSessions 200
"""


def missing() -> str:
    """Return why hosts cannot be made here, or an empty string."""
    if os.geteuid() != 0:
        return "hosts are made of Linux namespaces, and only root may make them"
    path = os.pathsep.join([os.environ.get("PATH", ""), _PATH])
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    probe = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True)
    return "this machine allows no namespaces" if probe.returncode else ""


class Lan:
    """A private network and its hosts; all of them end with it."""

    def __init__(self, folder: Path, visible: Sequence[Path] = (), shm: str = "512m") -> None:
        """Say where the hosts keep their files, and which paths under /tmp they must see."""
        self.folder, self.shm = folder, shm
        self.visible = [path for path in visible if Path("/tmp") in path.parents]
        self.shared = folder / "shared"
        self.hosts: dict[str, Host] = {}
        self.key = folder / "key"

    def __enter__(self) -> Self:
        self.shared.mkdir(parents=True)
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        # The network lives as long as this process, which waits for its pipe to be closed.
        self._switch = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        _wait(lambda: _is_apart(self._switch.pid), "the network")
        self.ip("link", "add", "lan", "type", "bridge")
        self.ip("link", "set", "lan", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for host in self.hosts.values():
            host.remove()
        _end(self._switch)

    def host(
        self,
        name: str,
        number: int,
        *,
        sshd: bool = True,
        shared: bool = True,
        cores: float | None = None,
    ) -> Host:
        """Add a host, not yet booted.

        Args:
            name: Of the host.
            number: What its address ends in.
            sshd: Whether it has an ssh server. One without is a user's, and holds the key with
                which to log in to the others.
            shared: Whether it has the shared folder.
            cores: How much of the machine's cores it may use, as 0.5; None for all.
        """
        host = Host(self, name, f"{_NETWORK}.{number}", sshd=sshd, shared=shared, cores=cores)
        self.hosts[name] = host
        return host

    def ip(self, *arguments: str, check: bool = True) -> None:
        """Call `ip` where the network's cables are."""
        inside = ("nsenter", "-t", str(self._switch.pid), "-n", "ip")
        _call(*inside, *arguments, check=check)


class Host:
    """One machine: made by `Lan.host`."""

    def __init__(
        self, lan: Lan, name: str, address: str, *, sshd: bool, shared: bool, cores: float | None
    ) -> None:
        self.name, self.address = name, address
        self._cores = None if cores is None else Cores(f"{name}-{os.getpid()}", cores)
        self.state = lan.folder / name
        self._lan, self._sshd, self._shared = lan, sshd, shared
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._cable = f"cable{address.rpartition('.')[2]}"

    @property
    def home(self) -> Path:
        """Where this machine's side sees the host's home."""
        return self.state / "home"

    @property
    def on(self) -> bool:
        """Return whether it is booted."""
        return self._process is not None

    def boot(self) -> None:
        """Start it; /run and /dev/shm are empty, the disk is as it was."""
        assert not self.on, f"{self.name} is on"
        self._prepare()
        environment = {
            "PATH": _PATH,
            "NAME": self.name,
            "ADDRESS": self.address,
            "STATE": str(self.state),
            "SHARED": str(self._lan.shared) if self._shared else "",
            "SHM": self._lan.shm,
            "SSHD": str(int(self._sshd)),
            "VISIBLE": " ".join(map(str, self._lan.visible)),
        }
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        with (self.state / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", *spaces, "--mount-proc", "bash", str(_FIRST_PROCESS)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test, which then ends its hosts
            )
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        _wait(lambda: bool(children.read_text().split()), f"{self.name}'s first process")
        self._first = int(children.read_text().split()[0])
        if self._cores is not None:
            self._cores.hold(self._first)
        end = ["type", "veth", "peer", "name", "eth0", "netns", str(self._first)]
        self._lan.ip("link", "add", self._cable, *end)
        self._lan.ip("link", "set", self._cable, "master", "lan", "up")
        ready = self.state / "run" / "ready"
        log_file = self.state / "boot.log"
        _wait(ready.exists, f"{self.name} to boot", lambda: log_file.read_text())

    def cut_power(self) -> None:
        """End it without warning: others find out because it answers no more."""
        if self._process is None:
            return
        self.unplug()  # first, so that no connection is closed in order
        os.kill(self._first, signal.SIGKILL)
        _end(self._process)
        self._process = None
        # The kernel takes the cable away with the host, a moment later; it must not meet the next.
        self._lan.ip("link", "del", self._cable, check=False)

    def remove(self) -> None:
        """End it for good."""
        self.cut_power()
        if self._cores is not None:
            self._cores.close()

    def unplug(self) -> None:
        """Take it off the network; it goes on running."""
        self._lan.ip("link", "set", self._cable, "down")

    def sh(
        self, script: str, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of bash on it to its end.

        Raises:
            AssertionError: It exited with another code than 0, and `check` is set.
        """
        answer = subprocess.run(
            self._command(script),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        said = f"{script}\nexited with {answer.returncode}:\n{answer.stdout}{answer.stderr}"
        assert not check or answer.returncode == 0, f"on {self.name}: {said[-4000:]}"
        return answer

    def popen(self, script: str, **more: Any) -> subprocess.Popen[str]:
        """Start a script of bash on it."""
        command = self._command(script)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **more)

    def processes(self) -> dict[int, str]:
        """Return the command of every process on it, by the number that this machine gives it."""
        if not self.on:
            return {}
        space = Path(f"/proc/{self._first}/ns/pid").readlink()
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if (folder / "ns" / "pid").readlink() == space:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = command.decode(errors="replace").strip()
            except OSError:
                pass  # it has just ended
        return found

    def _command(self, script: str) -> list[str]:
        enter = ["nsenter", "-t", str(self._first), "-m", "-n", "-p", "-u", "-i", f"--wdns={HOME}"]
        clean = ["env", "-i", f"HOME={HOME}", "USER=root", "TERM=dumb", "LANG=C.UTF-8"]
        return [*enter, *clean, f"PATH={_PATH}", "bash", "-c", script]

    def _prepare(self) -> None:
        shutil.rmtree(self.state / "run", ignore_errors=True)
        ssh = self.home / ".ssh"
        for folder in (ssh, self.state / "tmp", self.state / "run", self.state / "etc"):
            folder.mkdir(parents=True, exist_ok=True)
        users = Path("/etc/passwd").read_text().splitlines(keepends=True)
        others = [line for line in users if not line.startswith("root:")]
        root = f"root:x:0:0:root:{HOME}:/bin/bash\n"
        (self.state / "etc" / "passwd").write_text(root + "".join(others))
        names = "".join(f"{host.address} {host.name}\n" for host in self._lan.hosts.values())
        (self.state / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        if not self._sshd:
            shutil.copy(self._lan.key, ssh / "id_ed25519")  # with its permissions
            return
        shutil.copy(f"{self._lan.key}.pub", ssh / "authorized_keys")
        (ssh / "sshd_config").write_text(f"ListenAddress {self.address}\n{_SSHD}")
        if not (ssh / "host_key").exists():
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key")


def _call(*command: str | Path, check: bool = True) -> None:
    answer = subprocess.run(command, capture_output=True, text=True)
    assert not check or answer.returncode == 0, (
        f"{' '.join(map(str, command))}: {answer.stderr.strip()}"
    )


def _is_apart(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _wait(
    come: Callable[[], bool], what: str, why_not: Callable[[], str] = lambda: "no word"
) -> None:
    end = time.monotonic() + _WAIT_S
    while not come():
        assert time.monotonic() < end, f"waited {_WAIT_S} s for {what}: {why_not()}"
        time.sleep(0.01)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(_WAIT_S)
