"""`benchmarks/warm_start.py`: its landscapes are what it says of them, and its figures are counted.

How large the figures are is not tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import warm_start
from benchmarks.landscape import SPACE
from benchmarks.warm_start import beyond, edge, inside, main, noise

CHECKOUT = Path(__file__).parent.parent
TOP: dict[str, Any] = {"momentum": 0.75, "weight_decay": 10**-2.5, "dropout": 0.2}
TOP |= {"batch_size": 2**6.5, "schedule": "one-cycle", "flip": True}


@pytest.mark.parametrize(("hill", "rate"), [(beyond, 10**0.2), (inside, 10**-0.8)])
def test_a_hill_has_its_top_where_it_says(hill: Any, rate: float) -> None:
    assert hill(TOP | {"learning_rate": rate}) == pytest.approx(0.9)
    for change in ({"learning_rate": rate * 1.3}, {"learning_rate": rate / 1.3}, {"flip": False}):
        assert hill(TOP | {"learning_rate": rate} | change) < 0.9
    low, high = SPACE["learning_rate"]["float"]
    assert (low < rate < high) == (hill is inside)


def test_of_the_edge_only_what_it_says_matters() -> None:
    one = TOP | {"learning_rate": 0.5}
    assert edge(one) == edge(one | {"weight_decay": 0.1, "schedule": "constant"})
    assert edge(one) < edge(one | {"learning_rate": 1.0}) and noise(one) == noise({})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every search of the benchmark a small one."""
    monkeypatch.setattr(warm_start, "PARENT_TRIALS", 8)
    monkeypatch.setattr(warm_start, "CHILD_TRIALS", 12)
    few = tuple(replace(question, trials=6) for question in warm_start.QUESTIONS)
    monkeypatch.setattr(warm_start, "QUESTIONS", few)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("target", "reached"), [(0.0, True), (1.0, False)])
def test_epochs_are_counted_and_a_target_that_was_missed_is_told(
    target: float, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "TARGET", target)
    found = warm_start.warm(inside, 1)
    assert (found.with_parent_reached, found.alone_reached) == (reached, reached)
    assert found.taken == 8
    assert min(found.with_parent, found.alone) >= (9 if reached else 12)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--studies", "1", "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "with --from" in shown and "noise alone" in shown
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [len(of) for of in content["warm"].values()] == [1, 1]
    assert [(a["trials"], len(a["searches"])) for a in content["told"]] == [(6, 1)] * 3


@pytest.mark.slow
def test_it_runs_as_a_script_and_refuses_no_studies_in_one_line() -> None:
    command = [sys.executable, "benchmarks/warm_start.py", "--studies", "0"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --studies is 0; give 1 or more\n"
