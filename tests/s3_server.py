"""An S3 server of our own over HTTP, for tests: moto's, on a loopback port, in memory."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "studies"
_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


class Server:
    """A running server with one empty bucket."""

    def __init__(self) -> None:
        """Start it on a free port, and wait until it answers."""
        # Port 0: the system chooses, and the server says which; no other one can take it meanwhile.
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        lines = iter(self._process.stderr.readline, "")
        said = next((line for line in lines if "Running on" in line), "")
        assert said, "moto's server did not start"
        self.endpoint = said.split()[-1]
        for _ in range(300):
            try:
                self.ask("PUT", f"/{BUCKET}")
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise AssertionError("moto's server does not answer")

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._process.poll() is not None:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """Send a request that nobody has signed, and return the answer."""
        request = urllib.request.Request(
            self.endpoint + path,
            data=content,
            method=method,
            headers={"Content-Type": "text/plain"},  # or it is taken for a form
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def trust(self, everybody: bool) -> None:
        """Let everybody in, or nobody: it knows no user."""
        self.ask("POST", "/moto-api/reset-auth", b"inf" if everybody else b"0")

    def environment(self) -> dict[str, str]:
        """Return what a client must find in its environment."""
        return dict(
            zip(_NAMES, ("key-of-tests", "s3cret", self.endpoint, "us-east-1"), strict=True)
        )


@contextmanager
def running() -> Iterator[Server]:
    """Run a server for the length of a block; the environment leads to it."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.stop()
