"""The benchmark of networks trained at once runs, and all ways train the same networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_what_cannot_be_measured_is_refused_in_a_line() -> None:
    done = _fused("--networks", "0", "--device", "cpu")
    assert done.returncode == 2 and "must be at least 1" in done.stderr
