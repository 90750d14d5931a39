"""Files that are none: pipes, devices, folders, loops, and ones that unpack without end.

Each is given to every parser in a process of its own with little memory. None may wait, none may
take it all.
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import INPUTS, check_line

CHECKOUT = Path(__file__).parent.parent
_MEMORY = 1 << 30  # bytes that the process may have at its peak, with pandas or torch loaded

_PARSERS = {
    "study.yaml": "from search.config.config_file import load_config as read",
    "labels-idx1-ubyte": "from data.idx import read_idx as read",
    "labels-idx1-ubyte.gz": "from data.idx import read_idx as read",
    "rows.csv": "from data.tabular import read_csv as read",
    "rows.csv.gz": "from data.tabular import read_csv as read",
    "a.png": "from data.images import ImageShape\nfrom data.folder import read_image\n"
    "shape = ImageShape(channels=1, height=8, width=8, num_classes=2)\n"
    "read = lambda path: read_image(path, shape)",
    "m.safetensors": "from model.checkpoint import load_model\n"
    "read = lambda path: load_model(path, 'cpu')",
}
"""How each kind of file is read, by an example of its name."""

# Prints the refusal of each file, then the peak of memory in KiB. Not by `getrusage`: that counts
# the memory of the parent before the child has become itself.
_SCRIPT = """
import re, sys
from pathlib import Path
{read}
for path in sys.argv[1:]:
    try:
        read(Path(path))
        print("was taken")
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        assert "OneLineError" in kinds, kinds
        print(error)
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def refusals(name: str, paths: list[Path]) -> list[str]:
    """Return what the parser of files like `name` says of each path, in little memory."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(read=_PARSERS[name]), *map(str, paths)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    *lines, peak = done.stdout.splitlines()
    assert len(lines) == len(paths)
    assert int(peak) << 10 < _MEMORY, f"{name} takes too much memory"
    for line in lines:
        check_line(line)
    return lines


def test_there_are_ten_thousand_inputs() -> None:
    assert sum(INPUTS.values()) >= 10_000


@pytest.mark.parametrize("name", _PARSERS)
def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path),
        "nowhere": lambda path: path.symlink_to(path.with_name("nothing")),
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "random": lambda path: path.symlink_to("/dev/urandom"),
        "terminal": lambda path: path.symlink_to("/dev/tty"),
        "empty": Path.touch,
    }
    paths = []
    for kind, make in makers.items():
        folder = tmp_path / kind
        folder.mkdir()
        make(folder / name)
        paths.append(folder / name)
    locked = tmp_path / name
    locked.touch(mode=0o000)
    too_long = tmp_path / ("x" * 300 + name)
    lines = refusals(name, [*paths, locked, too_long])
    told = dict(zip(makers, lines, strict=False))
    assert "was taken" not in lines
    for kind in ("pipe", "endless", "random"):
        assert "a pipe or a device, not a plain file" in told[kind]
    assert "Is a directory" in told["folder"]
    if os.geteuid():
        assert "Permission denied" in lines[-2]


def repeated(head: bytes, content: bytes, times: int) -> bytes:
    """Return gzip data of `head` and then of `content`, `times` over."""
    return gzip.compress(head) + gzip.compress(content, 9) * times


def png_bomb(kind: bytes) -> bytes:
    """Return a PNG of few bytes: 256 MB of pixels, or of words beside them."""
    side, beside = (10**9, b"") if kind == b"IDAT" else (8, b"key\0\0")
    content = beside + zlib.compress(bytes(32 << 20), 9)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))]
    parts += [(kind, content)] * 8 + [(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def test_what_unpacks_without_end_is_refused_in_little_memory(tmp_path: Path) -> None:
    images = b"\0\0\x08\x03" + struct.pack(">III", 4, 1 << 15, 1 << 15)
    bombs = {
        "labels-idx1-ubyte.gz": [repeated(images, bytes(1 << 24), 64)],
        "rows.csv.gz": [
            repeated(b"", bytes(1 << 24), 64),
            repeated(b"", (b"0," * 784 + b"0\n") * 10_000, 45),
        ],
        "a.png": [png_bomb(b"IDAT"), png_bomb(b"zTXt")],
    }
    for name, contents in bombs.items():
        paths = []
        for number, content in enumerate(contents):
            folder = tmp_path / str(number)
            folder.mkdir(exist_ok=True)
            paths.append(folder / name)
            paths[-1].write_bytes(content)
        for line in refusals(name, paths):
            assert line != "was taken"


def test_a_file_with_a_hole_of_a_terabyte_is_refused_in_little_memory(tmp_path: Path) -> None:
    heads = {
        "study.yaml": b"a: 1\n",
        "labels-idx1-ubyte": b"\0\0\x08\x03" + struct.pack(">III", 10**6, 1000, 1000),
        "rows.csv": b"0," * 784 + b"0\n",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "m.safetensors": struct.pack("<Q", 2) + b"{}",
    }
    for name, head in heads.items():
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(10**12)
        assert refusals(name, [path]) != ["was taken"]


def test_a_parser_that_takes_too_much_memory_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_PARSERS, "greedy", "read = lambda path: b'x' * (1 << 30)")
    with pytest.raises(AssertionError, match="greedy takes too much memory"):
        refusals("greedy", [tmp_path])
