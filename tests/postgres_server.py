"""A PostgreSQL server of our own, for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PLACES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), "/opt/homebrew/bin"]


@contextmanager
def running_server() -> Iterator[Server]:
    """Yield a server that runs; not below pytest's folder, which only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = None
    try:
        server = Server(folder)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A PostgreSQL server of our own, on a loopback port, in a folder that goes with it."""

    def __init__(self, folder: Path) -> None:
        """Make its files. The user `weak` needs the password `right`."""
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._as: dict[str, Any] = {"env": {k: v for k, v in os.environ.items() if k[:2] != "PG"}}
        if os.getuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = folder / "data"
        self._call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
        rules = ("weak all scram-sha-256", "stranger all reject", "all all trust")
        (data / "pg_hba.conf").write_text("".join(f"host all {rule}\n" for rule in rules))
        self.start()
        self.sql("CREATE USER weak PASSWORD 'right'")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ("-h", "127.0.0.1", "-p", str(self.port), "-k", self._folder, "-F")
        command = [_program("postgres"), "-D", self._folder / "data", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **self._as)
        ready = [_program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        for _ in range(300):
            if subprocess.run(ready).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        """Stop it at once; whoever is connected is cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def url(self, database: str, user: str = "postgres") -> str:
        """Return where a database is."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Do something as the server's owner."""
        place = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database)
        self._call("psql", *place, "-c", statement)

    def _call(self, program: str, *arguments: Any) -> None:
        command = [_program(program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._as)


def _program(name: str) -> str:
    path = os.pathsep.join([*map(str, _PLACES), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip("PostgreSQL's server is not installed")
    return found
