"""The benchmark of networks trained at once runs, and all ways train the same networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.fused import main

CHECKOUT = Path(__file__).parent.parent


def _fused(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/fused.py", *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_all_ways_train_the_same_networks(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--networks", "2", "--epochs", "1", "--images", "600", "--rounds", "1"]
    options += ["--optimizer", "muon", "--ema", "0.9"]
    where = ["--device", "cpu", "--source", "synthetic"]
    done = _fused(*options, *where, "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    rows = {row["way"]: row for row in found["rows"]}
    assert set(rows) == {"one after another", "a process each", "fused"}
    alone = rows["one after another"]["val_accuracies"]
    assert len(alone) == 2
    assert rows["a process each"]["val_accuracies"] == alone
    # bfloat16, where the processor has it: a few of 60 answers may differ.
    assert rows["fused"]["val_accuracies"] == pytest.approx(alone, abs=0.1)
    assert all(row["networks_per_second"] > 0 for row in rows.values())
    assert {row["layout"] for row in found["layouts"]} == {
        "network after network",
        "grouped",
        "vmap",
    }
    assert "a process each" in done.stdout and "vmap" in done.stdout


def test_no_networks_are_refused() -> None:
    done = _fused("--networks", "0", "--device", "cpu")
    assert done.returncode == 2 and "must be at least 1" in done.stderr


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch-size", "1"], "batch_size is 1, but must be a whole number from 2"),
        (["--source", "/none"], "/none: is no folder; give "),
        (["--images", "0"], "train_images: Input should be greater than 0"),
        (["--device", "cuda"], "--device is cuda, but PyTorch sees no CUDA devices here"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    options: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    small = ["--source", "synthetic", "--images", "200", "--networks", "1", "--device", "cpu"]
    assert main([*small, *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {told}") and said.err.count("\n") == 1
    assert said.out == ""
