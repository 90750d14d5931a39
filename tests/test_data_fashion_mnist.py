"""Fashion-MNIST: where it is looked for, what is checked, and what is never touched."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from data import fashion_mnist
from data.download import RemoteFile
from data.fashion_mnist import FILES, cache_directory, load_fashion_mnist
from data.idx import load_idx
from data.images import FASHION_CLASSES, DataError
from data.source import DataSpec, load_test, load_train

NAMES = [file.name for file in FILES]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def fashion_mnist_dir() -> Path:
    folder = os.environ.get("FASHION_MNIST_DIR")
    if not folder:
        pytest.skip("FASHION_MNIST_DIR is not set")
    return Path(folder)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a tiny stand-in for the four published files, and let it pass for them."""
    folder = tmp_path / "published"
    folder.mkdir()
    files = []
    for name in NAMES:
        number = 20 if name.startswith("train") else 10
        labels = np.arange(number, dtype=np.uint8) % 10
        values = np.zeros((number, 28, 28), dtype=np.uint8) if "images" in name else labels
        head = bytes([0, 0, 8, values.ndim])
        shape = np.array(values.shape, dtype=">u4").tobytes()
        content = gzip.compress(head + shape + values.tobytes(), mtime=0)
        (folder / name).write_bytes(content)
        md5 = hashlib.md5(content).hexdigest()
        files.append(RemoteFile(name=name, num_bytes=len(content), md5=md5))
    monkeypatch.setattr(fashion_mnist, "FILES", tuple(files))
    return folder


class Recorder(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(self.path.lstrip("/"))


@pytest.fixture
def mirror(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    """Serve the stand-in on this machine to an empty cache; the list is what was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[str] = []
    handler = type("Handler", (Recorder,), {"asked": asked})
    serve = functools.partial(handler, directory=str(published))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", asked
        http.shutdown()
        thread.join()


def requests_of(asked: list[str]) -> list[str]:
    return sorted(line.split()[0] for line in asked)


def test_an_empty_cache_is_filled_with_all_four_files_once(
    mirror: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = mirror
    train = load_fashion_mnist("train", mirrors=[address])
    assert requests_of(asked) == sorted(NAMES)

    asked.clear()
    test = load_fashion_mnist("test", mirrors=[address], may_download=False)
    assert asked == []
    assert (train.num_images, test.num_images) == (20, 10)
    assert train.name == "fashion-mnist"
    assert train.origin == str(cache_directory())


@pytest.mark.parametrize("damage", ["cut short", "altered", "gone"])
def test_only_what_is_missing_or_damaged_is_fetched_again(
    mirror: tuple[str, list[str]], damage: str
) -> None:
    address, asked = mirror
    load_fashion_mnist("train", mirrors=[address])
    asked.clear()
    bad = cache_directory() / NAMES[0]
    whole = bad.read_bytes()
    others = {name: (cache_directory() / name).stat().st_mtime_ns for name in NAMES[1:]}
    if damage == "gone":
        bad.unlink()
    else:
        bad.write_bytes(whole[:-10] if damage == "cut short" else whole[:-10] + b"0123456789")

    load_fashion_mnist("train", mirrors=[address])

    assert requests_of(asked) == [NAMES[0]]
    assert bad.read_bytes() == whole
    assert others == {name: (cache_directory() / name).stat().st_mtime_ns for name in NAMES[1:]}


def test_good_files_stay_when_the_rest_cannot_be_fetched(
    mirror: tuple[str, list[str]], published: Path
) -> None:
    address, _ = mirror
    (published / NAMES[1]).write_bytes(b"<html>not the labels</html>")

    with pytest.raises(DataError, match=r"train-labels.*served 27 bytes.*FASHION_MNIST_DIR"):
        load_fashion_mnist("train", mirrors=[address], backoff_seconds=0.01)
    assert [path.name for path in cache_directory().iterdir()] == [NAMES[0]]


def test_without_leave_to_download_one_line_says_what_is_missing(
    mirror: tuple[str, list[str]],
) -> None:
    address, asked = mirror
    with pytest.raises(DataError, match=r"not complete in .*fashion-search.*downloading is off"):
        load_fashion_mnist("train", mirrors=[address], may_download=False)
    assert asked == []
    assert not cache_directory().exists()


def test_a_folder_of_ones_own_that_lacks_a_file_is_named_not_passed_over(
    mirror: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = mirror
    empty = tmp_path / "mine"
    empty.mkdir()
    monkeypatch.setenv("FASHION_MNIST_DIR", str(empty))

    with pytest.raises(DataError, match=f"FASHION_MNIST_DIR is {empty}, which lacks {NAMES[0]}"):
        load_fashion_mnist("train", mirrors=[address])
    assert asked == []
    assert list(empty.iterdir()) == []


def test_a_damaged_file_in_a_folder_of_ones_own_is_refused_and_left_alone(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(published))
    bad = published / NAMES[1]
    bad.write_bytes(bad.read_bytes()[:-1] + b"?")
    before = bad.read_bytes()

    with pytest.raises(DataError, match=f"{bad}: is damaged .its MD5 should be"):
        load_fashion_mnist("train")
    assert bad.read_bytes() == before


def test_training_opens_no_test_file(published: Path) -> None:
    # Asked of the interpreter itself: every file it opens is reported.
    code = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0]))"
        " if event == 'open' else None)\n"
        "from data import fashion_mnist\n"
        "from data.download import RemoteFile, md5\n"
        "from pathlib import Path\n"
        f"folder = Path({str(published)!r})\n"
        "fashion_mnist.FILES = tuple(RemoteFile(name=f.name, md5=md5(folder / f.name),"
        " num_bytes=(folder / f.name).stat().st_size) for f in fashion_mnist.FILES)\n"
        "opened.clear()\n"
        "from data.source import DataSpec, load_test, load_train\n"
        "load_train(DataSpec())\n"
        "print(any('train-images' in name for name in opened),"
        " any('t10k' in name for name in opened))\n"
        "load_test(DataSpec())\n"
        "print(any('t10k-labels' in name for name in opened))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"FASHION_MNIST_DIR": str(published)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["True", "False", "True"]


def test_the_published_files_are_what_the_paper_says(fashion_mnist_dir: Path) -> None:
    train, test = load_train(DataSpec()), load_test(DataSpec())

    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [6_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    # The pixels, as published: the training file's SHA-256 after unpacking.
    with gzip.open(fashion_mnist_dir / NAMES[0]) as file:
        unpacked = file.read()
    assert hashlib.sha256(unpacked).hexdigest() == (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    )
    assert unpacked[16:] == train.images.tobytes()
    assert (train.name, train.classes) == ("fashion-mnist", FASHION_CLASSES)
    assert train.labels[:4].tolist() == [9, 0, 0, 3]


def test_fashion_mnist_is_known_by_its_labels_as_any_quartet(fashion_mnist_dir: Path) -> None:
    assert load_idx(fashion_mnist_dir, "test").classes == FASHION_CLASSES
