"""Every command of the README, as it stands there, in a fresh clone, one after the other.

Only what a study costs is made smaller: options are added to the commands that begin one. What
needs a cluster is run on one by tests/cluster.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SMALL = (
    "max_epochs=2",
    "budget={trials: 8}",
    "points=[]",
    "baselines=[seed-32]",
    "data.train_images=1500",
    "data.synthetic_train=1500",
    "data.synthetic_test=300",
    "data.validation_images=300",
    "space={filters: {choice: [4, 6], per_block: true}, num_blocks: {int: [1, 2]},"
    " dropout: {float: [0.0, 0.4]}, learning_rate: {float: [0.02, 0.3], log: true},"
    " batch_size: 64}",
    "asha={min_competitors: 2, grace_epochs: 1}",
    "sampler={startup_trials: 4}",
    "final={finalists: 1, rounds: 2, race_baselines: false, seeds: 1, baseline_seeds: 1}",
)
SETTINGS = [part for value in SMALL for part in ("--set", value)]
SERVERS = ("serve", "dashboard", "tensorboard")


def block(heading: str) -> list[str]:
    """Return the lines of the first shell block under a heading of the README."""
    found = re.search(rf"^## {heading}$.*?```sh\n(.*?)```", README, flags=re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return [line for line in found.group(1).splitlines() if line.strip()]


def commands() -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block("Commands")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone of the checkout, with what is not committed yet, and its environment."""
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git clone: there is nothing to clone from")
    if not os.environ.get("FASHION_MNIST_DIR"):
        pytest.skip("FASHION_MNIST_DIR is not set: the commands would download Fashion-MNIST")
    folder = tmp_path_factory.mktemp("fresh") / "fashion-search"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    Image.new("L", (28, 28), 90).save(folder / "picture.png")
    return folder


def run(words: list[str], clone: Path) -> str:
    done = subprocess.run(
        words,
        cwd=clone,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def visit(words: list[str], clone: Path) -> None:
    """Start a server, open every address it prints, and end it as Ctrl-C does."""
    with subprocess.Popen(
        words,
        cwd=clone,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        watch = threading.Timer(120, server.kill)  # else a silent one is waited for without end
        watch.start()
        try:
            assert any(_answers(line) for line in _lines(server)), shlex.join(words)
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
            watch.cancel()


def _lines(server: subprocess.Popen[str]) -> Iterator[str]:
    assert server.stdout is not None
    yield from server.stdout


def _answers(line: str) -> bool:
    addresses = re.findall(r"http://(?:127\.0\.0\.1|localhost):\d+/?", line)
    for address in addresses:
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
    return bool(addresses)


def test_every_command_of_the_readme_runs_in_a_fresh_clone(clone: Path) -> None:
    assert block("Quickstart")[-1] == "make search"
    # -o: the environment is that of this test; making one is what `.ci/run` begins with.
    small = shlex.join(SETTINGS)
    run(["make", "-o", ".venv/installed", "search", f"ARGS={small}"], clone)
    for words in commands():
        if any(word in SERVERS for word in words):
            visit(words, clone)
            continue
        begins = words[3] in ("run", "plan") and not any("config.yaml" in word for word in words)
        run([*words, *(SETTINGS if begins and "--from" not in words else [])], clone)
    studies = {path.parent.name for path in (clone / "runs").glob("*/result.json")}
    assert {"quickstart", "drawn", "again"} <= studies
    assert (clone / "runs" / "quickstart" / "report.html").is_file()
    assert (clone / "exported" / "model.onnx").is_file()


def test_the_commands_of_the_contributing_section_are_those_that_ci_runs() -> None:
    lines = [shlex.split(line, comments=True) for line in block("Contributing")]
    ci = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
    makes = [" ".join(words) for words in lines if words[0] == "make"]
    assert makes == ["make lint", "make test"]
    for line in makes:
        assert re.search(rf"^{line}$", ci, flags=re.MULTILINE)
