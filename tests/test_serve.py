"""The server as a user starts it: a real process, many clients, bad requests, a browser."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request

from data.images import FASHION_CLASSES, ImageShape
from model.exported import ExportedModel, open_export
from search.handover import serve_upload
from search.handover.predict import find_model, predict
from search.handover.serve import _hosts, _listen
from search.handover.serve_app import make_app
from search.handover.serve_batch import Batcher
from search.handover.serve_upload import MAX_BYTES, Refused, Uploads, pixels_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHECKOUT = Path(__file__).parent.parent


class Server:
    """`python -m search serve` at a free port."""

    def __init__(self, *arguments: str) -> None:
        """Start it and wait until it says where it is."""
        words = [sys.executable, "-m", "search", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            words, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)$", self.greeting.strip())
        assert found, self.greeting + (self.process.stderr.read() if self.process.stderr else "")
        self.url, self.port = found[0], int(found[1])

    def ask(
        self, method: str, path: str, body: Any = None, kind: str | None = None
    ) -> tuple[int, str, str]:
        """Return status, kind and text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"], answer.read().decode()
        finally:
            connection.close()

    def predict(self, body: bytes, kind: str | None = None, query: str = "") -> dict[str, Any]:
        """Return the answer to one picture."""
        status, _, text = self.ask("POST", f"/predict{query}", body, kind)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def stop(self, number: signal.Signals) -> tuple[int, str, str]:
        """End it; return its exit code and what else it said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Server]:
    """Return a server that waits long for others, so that requests meet."""
    running = Server(str(exported), "--max-wait", "150", "--max-batch", "16")
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return forty pictures of several sizes."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    paths = []
    for number in range(40):
        size = (28, 28) if number % 3 else (60, 41, 3)
        paths.append(folder / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(paths[-1])
    return paths


def form(content: bytes, name: str = "image") -> tuple[bytes, str]:
    """Return a form with one file, and its kind."""
    head = f'--xx\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
    return head.encode() + content + b"\r\n--xx--\r\n", "multipart/form-data; boundary=xx"


def test_many_at_once_are_answered_together_and_as_predict_does(
    server: Server, exported: Path, pictures: list[Path]
) -> None:
    before = json.loads(server.ask("GET", "/health")[2])
    with ThreadPoolExecutor(len(pictures)) as pool:
        answers = list(pool.map(lambda path: server.predict(path.read_bytes()), pictures))
    after = json.loads(server.ask("GET", "/health")[2])
    assert after["images"] - before["images"] == len(pictures)
    batches = after["batches"] - before["batches"]
    assert batches < len(pictures) / 2
    assert 1 < after["largest_batch"] <= 16
    assert max(answer["batch"] for answer in answers) == after["largest_batch"]
    for answer, said in zip(answers, predict(find_model(exported), pictures, top=5), strict=True):
        assert [row["label"] for row in answer["top"]] == list(said.labels)
        shares = [row["probability"] for row in answer["top"]]
        assert shares == pytest.approx(said.probabilities, abs=1e-6)
        assert (answer["label"], answer["probability"]) == (said.labels[0], shares[0])


def test_file_form_and_pixels_are_the_same_picture(server: Server, pictures: list[Path]) -> None:
    content = pictures[1].read_bytes()
    pixels = np.asarray(Image.open(pictures[1]))
    raw = server.predict(content, "image/png")["top"]
    assert server.predict(*form(content))["top"] == raw
    assert server.predict(*form(content, "anything"))["top"] == raw
    for shaped in (pixels, pixels[None], pixels.ravel()):
        body = json.dumps({"pixels": shaped.tolist()}).encode()
        assert server.predict(body, "application/json")["top"] == raw
    inverted = io.BytesIO()
    Image.fromarray(255 - pixels).save(inverted, "PNG")
    assert server.predict(inverted.getvalue(), query="?invert=true")["top"] == raw
    assert len(server.predict(content, query="?top=3")["top"]) == 3
    assert len(server.predict(content, query="?top=99")["top"]) == 10


def test_a_bright_ground_is_noted(server: Server) -> None:
    dark, bright = io.BytesIO(), io.BytesIO()
    Image.new("L", (28, 28), 3).save(dark, "PNG")
    Image.new("L", (28, 28), 250).save(bright, "PNG")
    assert "try invert=true" in server.predict(bright.getvalue())["note"]
    assert "try invert=false" in server.predict(dark.getvalue(), query="?invert=true")["note"]
    assert "note" not in server.predict(dark.getvalue())
    assert "seen" not in server.predict(dark.getvalue())
    assert server.predict(dark.getvalue(), query="?seen=1")["seen"].startswith("data:image/png")


PNG = b"\x89PNG\r\n\x1a\n"
BAD: dict[str, tuple[str, str, bytes, str | None, int, str]] = {
    "no picture": ("POST", "/predict", b"", None, 400, "no picture in the request"),
    "a text": ("POST", "/predict", b"hello", "image/png", 400, "cannot be read as a PNG or JPEG"),
    "half a picture": ("POST", "/predict", PNG + b"\0" * 40, None, 400, "cannot be read"),
    "a form of text": (
        "POST", "/predict",
        b'--xx\r\nContent-Disposition: form-data; name="image"\r\n\r\nhello\r\n--xx--\r\n',
        "multipart/form-data; boundary=xx", 400, "the form holds no file",
    ),
    "no form": ("POST", "/predict", b"x", "multipart/form-data", 400, "form cannot be read"),
    "no JSON": ("POST", "/predict", b"{", "application/json", 400, "JSON must be"),
    "other JSON": ("POST", "/predict", b"[1]", "application/json", 400, "JSON must be"),
    "deep JSON": ("POST", "/predict", b"[" * 90_000, "application/json", 400, "JSON must be"),
    "few pixels": (
        "POST", "/predict", b'{"pixels": [1, 2]}', "application/json", 400, "shape (2,)",
    ),
    "large pixels": (
        "POST", "/predict", json.dumps({"pixels": [256] * 784}).encode(), "application/json",
        400, "one of these is none",
    ),
    "a strange top": ("POST", "/predict?top=0", PNG, None, 400, "`top` is '0'"),
    "a strange flag": ("POST", "/predict?invert=maybe", PNG, None, 400, "`invert` is 'maybe'"),
    "too large": ("POST", "/predict", b"\0" * (MAX_BYTES + 1), None, 413, "more than 10,000,000"),
    "a get": ("GET", "/predict", b"", None, 405, "POST /predict"),
    "elsewhere": ("GET", "/favicon.ico", b"", None, 404, "Not Found"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_answered_is_told_in_one_line(server: Server, what: str) -> None:
    method, path, body, kind, expected, words = BAD[what]
    try:
        status, said_kind, text = server.ask(method, path, body, kind)
    except (BrokenPipeError, ConnectionResetError):
        assert what == "too large"  # told before all was sent; some clients do not listen then
        return
    assert (status, said_kind) == (expected, "application/json")
    (key, message), *others = json.loads(text).items()
    assert (key, others) == ("error", [])
    assert words in message
    assert "\n" not in message
    assert len(message) <= 500


def test_a_body_without_a_length_is_cut_off_too(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(60):
            yield b"\0" * 1_000_000

    try:
        status, _, text = server.ask("POST", "/predict", endless())
    except (BrokenPipeError, ConnectionResetError):
        return
    assert status == 413, text


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(server: Server) -> None:
    file = io.BytesIO()
    Image.new("1", (6000, 6000)).save(file, "PNG")
    status, _, text = server.ask("POST", "/predict", file.getvalue())
    assert status == 400
    assert "6000 x 6000 pixels" in text


def test_the_model_is_described(server: Server, exported: Path) -> None:
    facts = json.loads(server.ask("GET", "/model")[2])
    sums = (exported / "SHA256SUMS").read_text()
    assert f"{facts['sha256']}  model.onnx" in sums
    assert (facts["study"], facts["accuracy"]) == ("demo", None)
    assert facts["classes"] == list(FASHION_CLASSES)
    assert facts["image"] == {"channels": 1, "height": 28, "width": 28}


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    status, kind, page = server.ask("GET", "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert not re.search(r"https?://|@import|<iframe|<script[^>]+src", page)
    assert "innerHTML" not in page  # a class may be called anything


def test_the_server_has_no_torch(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.is_file():
        pytest.skip("which libraries a process holds is told by Linux only")
    assert "onnxruntime" in maps.read_text()
    assert "torch" not in maps.read_text()


def test_it_listens_on_loopback_only(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with socket.socket() as caller:
        caller.settimeout(5)
        assert caller.connect_ex((address, server.port)) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(exported: Path, number: signal.Signals) -> None:
    running = Server(str(exported))
    assert running.greeting.startswith("serving demo: http://127.0.0.1:")
    code, out, err = running.stop(number)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "stopped"


@pytest.mark.parametrize("what", ["changed", "none", "port"])
def test_it_does_not_start_with_what_is_wrong(exported: Path, tmp_path: Path, what: str) -> None:
    folder, port = shutil.copytree(exported, tmp_path / "copy"), "0"
    words = {"changed": "model.onnx is not what was exported", "none": "no export", "port": "taken"}
    with socket.socket() as other:
        if what == "changed":
            with (folder / "model.onnx").open("ab") as file:
                file.write(b"\0")
        elif what == "none":
            shutil.rmtree(folder)
            folder.mkdir()
        else:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = str(other.getsockname()[1])
            words["port"] = f"cannot listen at 127.0.0.1, port {port}"
        ran = subprocess.run(
            [sys.executable, "-m", "search", "serve", str(folder), "--port", port],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words[what] in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_answers_of_a_kept_connection_do_not_wait() -> None:
    # asyncio sets TCP_NODELAY only on sockets that say their protocol: 40 ms an answer else.
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_batch_that_fails_is_told_to_all_and_the_next_is_answered() -> None:
    calls: list[int] = []

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        calls.append(len(images))
        if len(calls) == 1:
            raise RuntimeError("broken")
        return images[:, 0, 0, :2].astype(np.float32)

    async def ask() -> tuple[list[Any], list[Any]]:
        async with Batcher(answer, max_batch=3, max_wait_ms=50) as batcher:
            pictures = [np.full((1, 2, 2), k, np.uint8) for k in range(7)]
            first = await asyncio.gather(*map(batcher.answer, pictures[:2]), return_exceptions=True)
            rest = [asyncio.create_task(batcher.answer(picture)) for picture in pictures]
            await asyncio.sleep(0)
            rest[0].cancel()  # a client that has gone
            done = await asyncio.gather(*rest, return_exceptions=True)
            assert (batcher.images, batcher.batches, batcher.largest) == (6, 3, 3)
            return first, done

    first, done = asyncio.run(ask())
    assert [str(error) for error in first] == ["broken", "broken"]
    assert isinstance(done[0], asyncio.CancelledError)
    assert [row.tolist() for row, _ in done[1:]] == [[k, k] for k in range(1, 7)]
    assert calls == [2, 2, 3, 1]


def test_pixels_of_colour_are_taken_channel_by_channel() -> None:
    shape = ImageShape(channels=3, height=2, width=2, num_classes=2)
    values = np.arange(12).reshape(3, 2, 2)
    body = json.dumps({"pixels": values.tolist()}).encode()
    np.testing.assert_array_equal(pixels_of(body, shape), values)
    for wrong in (values.transpose(1, 2, 0).tolist(), [[0.5] * 12], ["1"] * 12, [True] * 12, None):
        with pytest.raises(Refused, match="JSON must be"):
            pixels_of(json.dumps({"pixels": wrong}).encode(), shape)


def test_a_long_text_among_pixels_takes_no_memory() -> None:
    # NumPy would give every element the room of the longest.
    shape = ImageShape(channels=1, height=28, width=28, num_classes=2)
    body = json.dumps({"pixels": ["a" * 40_000] + [""] * 783}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="one of these is none"):
            pixels_of(body, shape)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    several: list[Any] = [
        [[0] * 28] * 29,
        [[0] * 28] * 27 + [[0] * 27],
        [[[[0] * 28] * 28]],
        [[]],
        [0.0],
    ]
    for strange in several:
        with pytest.raises(Refused, match=r"these are of|one of these"):
            pixels_of(json.dumps({"pixels": strange}).encode(), shape)


def request_of(body: bytes, kind: str, host: str | None = "localhost:8000") -> dict[str, Any]:
    """Return the scope of a request to predict."""
    names = {"content-type": kind, "content-length": str(len(body))} | (
        {"host": host} if host else {}
    )
    return {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
    }


@pytest.mark.parametrize("kind", ["image/png", "application/json"])
def test_few_pictures_are_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def unpack(content: bytes, shape: ImageShape) -> NDArray[np.uint8]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        if content == b"large":
            raise MemoryError
        return np.zeros((1, 2, 2), np.uint8)

    monkeypatch.setattr(serve_upload, "_decode", unpack)
    monkeypatch.setattr(serve_upload, "pixels_of", unpack)

    async def ask() -> list[Any]:
        uploads = Uploads(ImageShape(channels=1, height=2, width=2, num_classes=2))

        async def one(body: bytes) -> Any:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body}

            return await uploads.read(Request(request_of(body, kind), receive))

        return await asyncio.gather(*map(one, [b"large", *[b"x"] * 9]), return_exceptions=True)

    large, *others = asyncio.run(ask())
    assert most <= 2
    assert isinstance(large, Refused)
    assert large.status == 503
    assert [row.shape for row in others] == [(1, 2, 2)] * 9


def ask_app(
    model: ExportedModel, host: str | None, hosts: frozenset[str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Ask an application of `model` for one picture's class; return status and answer."""
    app = make_app(model, max_batch=1, max_wait_ms=0, hosts=hosts)
    body = json.dumps({"pixels": [0] * 784}).encode()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        async with app.router.lifespan_context(app):
            await app(request_of(body, "application/json", host), receive, send)

    asyncio.run(ask())
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent))


def test_a_page_from_elsewhere_cannot_ask_under_a_name_of_its_own(exported: Path) -> None:
    model = open_export(exported)
    with _listen("127.0.0.1", 0) as listener:
        hosts = _hosts("Mine.Example", listener)
    own = ["localhost:80", "LOCALHOST", "127.0.0.1:8000", "[::1]", "[::1]:80", "mine.example:1"]
    for host in own:
        assert ask_app(model, host, hosts)[0] == 200, host
    for other in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1x",
        None,
    ):
        status, answer = ask_app(model, other, hosts)
        assert (status, list(answer)) == (421, ["error"]), other
    with _listen("0.0.0.0", 0) as listener:
        assert _hosts("0.0.0.0", listener) is None
    assert ask_app(model, "evil.example")[0] == 200


def test_the_server_asks_who_is_called(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/model", headers={"Host": f"evil.example:{server.port}"})
    answer = connection.getresponse()
    assert (answer.status, list(json.loads(answer.read()))) == (421, ["error"])
    connection.close()


def test_a_model_that_fails_is_told_in_one_line_and_not_raised_again(exported: Path) -> None:
    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("broken\nin two lines")

    model = dataclasses.replace(open_export(exported), session=Broken())
    # Raised again, it would come out here, and a server would print its traceback.
    answer = ask_app(model, "localhost")
    assert answer == (500, {"error": "the model gave no answer: broken in two lines"})


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Return a browser without a window."""
    if PROGRAM is None:
        pytest.skip("no Chromium here to open the page with")
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True)])
def test_a_browser_takes_a_picture_and_shows_the_answer(
    server: Server,
    pictures: list[Path],
    window: Chromium,
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    window.open(server.url, width=width, dark=dark)
    window.until("document.title.startsWith('demo')")
    window.choose("#file", pictures[1])
    answer = server.predict(pictures[1].read_bytes(), query="?top=10")
    assert window.until("document.body.dataset.answered") == answer["label"]
    rows = window.run(
        "[...document.querySelectorAll('#bars .name')].map((e) => e.textContent).join('|')"
    )
    assert rows.split("|") == [row["label"] for row in answer["top"]]
    assert window.run("document.getElementById('seen').naturalWidth") == 28
    assert window.run("document.documentElement.scrollWidth") <= width
    ground = window.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 384) == dark
    assert window.complaints == []
    (broken := tmp_path / "broken.png").write_bytes(b"no picture")
    window.choose("#file", broken)
    window.until("document.getElementById('message').className === 'error'")
    assert "cannot be read" in window.run("document.getElementById('message').textContent")
    assert window.run("document.getElementById('pictures').hidden")  # the boot before is gone
