"""Downloads: a real server on this machine, mirrors that fail in every way, one that works."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.download import RemoteFile, download
from data.images import DataError

CONTENT = bytes(range(256)) * 1000
REMOTE = RemoteFile(name="images.gz", num_bytes=len(CONTENT), md5=hashlib.md5(CONTENT).hexdigest())


@dataclass
class Server:
    """Serve /good/ well and each other folder with its own fault; remember what was asked for."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    failures_left: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def mirror(self, folder: str) -> str:
        return f"{self.address}/{folder}/"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            folder = self.path.split("/")[1]
            body, stated, status, encoding = CONTENT, len(CONTENT), 200, ""
            if folder == "missing" or (folder == "flaky" and state.failures_left > 0):
                state.failures_left -= 1
                body, stated, status = b"no", 2, 503
            elif folder == "half":  # says that all will come, and hangs up
                body = CONTENT[: len(CONTENT) // 2]
            elif folder == "short":  # says itself that it is half
                body = CONTENT[: len(CONTENT) // 2]
                stated = len(body)
            elif folder == "long":
                body = CONTENT + b"more"
                stated = len(body)
            elif folder == "wrong":
                body = bytes(len(CONTENT))
            elif folder == "encoded":  # a .gz labelled as an encoding of something else
                encoding = "gzip"
            elif folder == "silent":
                state.released.wait(20)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(stated))
            if encoding:
                self.send_header("Content-Encoding", encoding)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.released.set()
        http.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_progress_is_told(tmp_path: Path, server: Server) -> None:
    told: list[tuple[str, int, int]] = []
    path = download(
        REMOTE,
        tmp_path,
        mirrors=[server.mirror("good")],
        progress=lambda *step: told.append(step),
    )

    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["images.gz"]
    assert [name for name, _, _ in told] == ["images.gz"] * len(told)
    done = [bytes_ for _, bytes_, _ in told]
    assert done == sorted(done)
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("fault", ["missing", "half", "short", "long", "wrong"])
def test_the_second_mirror_is_asked_when_the_first_fails(
    tmp_path: Path, server: Server, fault: str
) -> None:
    path = download(REMOTE, tmp_path, mirrors=[server.mirror(fault), server.mirror("good")])

    assert path.read_bytes() == CONTENT
    assert server.asked == [f"/{fault}/images.gz", "/good/images.gz"]
    assert names(tmp_path) == ["images.gz"]


def test_the_second_mirror_is_asked_when_the_first_is_silent_or_not_there(
    tmp_path: Path, server: Server
) -> None:
    mirrors = ["http://127.0.0.1:9/", server.mirror("silent"), server.mirror("good")]

    path = download(REMOTE, tmp_path, mirrors=mirrors, timeout_seconds=0.2)
    assert path.read_bytes() == CONTENT


def test_bytes_are_kept_as_published_whatever_the_server_calls_them(
    tmp_path: Path, server: Server
) -> None:
    path = download(REMOTE, tmp_path, mirrors=[server.mirror("encoded")])

    assert path.read_bytes() == CONTENT


def test_a_mirror_that_comes_back_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.failures_left = 2
    path = download(
        REMOTE, tmp_path, mirrors=[server.mirror("flaky")], num_rounds=3, backoff_seconds=0.01
    )

    assert path.read_bytes() == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "answered HTTP 503"),
        ("half", "broke off before 256000 bytes"),
        ("short", "served 128000 bytes, not 256000"),
        ("long", "served more than 256000 bytes"),
        ("wrong", f"served a file with MD5 [0-9a-f]{{32}}, not {REMOTE.md5}"),
    ],
)
def test_when_no_mirror_helps_one_line_says_why_and_nothing_is_left(
    tmp_path: Path, server: Server, fault: str, reason: str
) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        download(
            REMOTE, tmp_path, mirrors=[server.mirror(fault)], num_rounds=2, backoff_seconds=0.01
        )

    assert str(caught.value).startswith("images.gz: could not be fetched in 2 rounds")
    assert server.mirror(fault) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
    assert len(server.asked) == 2


def test_an_interrupted_download_leaves_the_old_file_and_no_part(
    tmp_path: Path, server: Server
) -> None:
    (tmp_path / "images.gz").write_bytes(b"the old one")

    def interrupt(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(REMOTE, tmp_path, mirrors=[server.mirror("good")], progress=interrupt)
    assert names(tmp_path) == ["images.gz"]
    assert (tmp_path / "images.gz").read_bytes() == b"the old one"
