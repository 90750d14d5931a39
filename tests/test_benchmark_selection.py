"""The benchmark of the race: simulated studies whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.curve_table import CurveTable, load_table
from benchmarks.selection import Noise, main, one_study, summary

QUIET = Noise(seed=0.0, split=0.0, luck=0.0, epoch=0.0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of 60 configurations whose accuracy, in percent, grows for 6 epochs."""
    draw = np.random.default_rng(0)
    points = draw.random((60, 2))
    finals = 92 - 8 * ((points - 0.6) ** 2).sum(axis=1)
    curves = finals[:, None] - 10 * 0.5 ** np.arange(1, 7)
    path = tmp_path / "small.npz"
    np.savez(
        path,
        names=np.array(["a", "b"]),
        is_log=np.zeros(2, bool),
        is_int=np.zeros(2, bool),
        lower=np.zeros(2),
        upper=np.ones(2),
        configs=points,
        metric=curves.astype(np.float32),
        seconds=np.cumsum(np.ones((60, 6)), axis=1) * (1 + points[:, :1]),
        direction=np.array("max"),
    )
    return path


def shares(path: Path) -> CurveTable:
    table = load_table(path)
    return replace(table, values=table.values / 100)


def test_without_noise_the_search_is_right_and_there_is_no_optimism(table: Path) -> None:
    study = one_study(shares(table), QUIET, seed=0, budget=10)
    assert study["leader"] == study["search_best"] == study["best_finalist"]
    assert study["true_optimism"] == pytest.approx(0, abs=1e-6)
    assert study["reported_optimism"] == pytest.approx(0, abs=1e-6)
    assert study["covered"]


def test_with_noise_the_search_flatters_itself_and_the_race_says_so(table: Path) -> None:
    noise = Noise(seed=0.01, split=0.01, luck=0.0, epoch=0.005)
    told = summary([one_study(shares(table), noise, seed=s, budget=10) for s in range(12)])
    assert told["true_optimism"] > 0.005
    assert told["reported_optimism"] == pytest.approx(told["true_optimism"], abs=0.006)
    assert told["leader"] >= told["search_best"] and told["covered"] > 0.7


def test_the_command_prints_a_table_and_writes_the_figures(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main([str(table), "--studies", "3", "--budget", "5", "--json", str(out)]) == 0
    assert "true value of the chosen one" in capsys.readouterr().out
    found = json.loads(out.read_text())["tables"]["small"]
    assert len(found["studies"]) == found["summary"]["studies"] == 3
    assert main([str(tmp_path / "none.npz")]) == 2
    assert "there is no such file" in capsys.readouterr().err
