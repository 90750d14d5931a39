"""The benchmarks of what a trial costs, and of how many workers one driver serves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_size import Costs, Scene, main, measured, simulate

CHECKOUT = Path(__file__).parent.parent
FREE = Costs(
    ours_trial_ms=0.0,
    ours_epoch_ms=0.0,
    ray_trial_ms=0.0,
    ray_epoch_ms=0.0,
    ask_ms=0.0,
    ask_ms_per_thousand=0.0,
    checkpoint_mb=0.0,
    images_mb=0.0,
    node_start_seconds=0.0,
)


def _bookkeeping(folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    path = folder / "out.json"
    command = [sys.executable, "benchmarks/bookkeeping.py", "--json", str(path), *options]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_the_driver_alone_is_told_by_part(tmp_path: Path) -> None:
    said, found = _bookkeeping(tmp_path, "--trials", "20", "--without-ray")
    assert "The driver without Ray" in said and "Through Ray" not in said
    alone = found["alone"]
    assert sum(alone["parts_ms"].values()) - alone["ask_ms"] == pytest.approx(alone["cpu_ms"])
    assert min(alone["parts_ms"].values()) > 0
    assert len(alone["tenths_ms"]) == 10
    assert set(found["costs"]) == {"ours_trial_ms", "ours_epoch_ms"}
    assert (found["trials"], found["slots"]) == (20, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ours_and_ray_alone_take_turns(tmp_path: Path) -> None:
    said, found = _bookkeeping(tmp_path, "--trials", "10", "--slots", "1", "--rounds", "2")
    assert "Through Ray" in said
    names = ["Ray alone", "ours", "ours, watched"]
    assert [run["who"] for run in found["runs"]] == [*names, *names, "Ray alone, 10 epochs"]
    for run in found["runs"]:
        assert run["cpu_ms"] > run["ask_cpu_ms"] and run["wall_ms"] > 0
        assert (run["ask_cpu_ms"] > 0) == run["who"].startswith("ours")
    assert measured(found) != Costs()


def test_where_nothing_costs_anything_all_workers_train_all_the_time() -> None:
    row = simulate(Scene(workers=8, epoch_seconds=10, relay=True, ended=0, hours=1), FREE)
    assert row["efficiency"] == pytest.approx(1.0)
    assert (row["head_share"], row["network_share"], row["wait_ms"]) == (0, 0, 0)
    assert row["full_at_workers"] is None


def test_one_worker_waits_for_its_own_answers_only() -> None:
    # No trial is ever ended: a second of training, then a second for its answer.
    costs = replace(FREE, ray_epoch_ms=1000.0)
    scene = Scene(workers=1, epoch_seconds=1e-9, relay=False, ended=0, hours=1, grace=10**6)
    row = simulate(scene, costs)
    assert row["wait_ms"] == pytest.approx(1000)
    assert row["epochs_per_hour"] == pytest.approx(3600, abs=2)
    assert row["head_share"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ({"ours_epoch_ms": 500.0}, "driver"),
        ({"ray_epoch_ms": 500.0}, "Ray"),
        ({"ask_ms": 2000.0}, "proposals"),
        ({"checkpoint_mb": 1000.0}, "network"),
    ],
)
def test_the_first_bottleneck_is_named_and_more_workers_are_of_no_use(
    cost: dict[str, Any], expected: str
) -> None:
    costs = replace(FREE, **cost)
    rows = [
        simulate(Scene(workers=n, epoch_seconds=10, relay=True, ended=0, hours=2), costs)
        for n in (4, 200, 400)
    ]
    assert {row["bottleneck"] for row in rows} == {expected}
    few, many, more = (row["epochs_per_hour"] for row in rows)
    assert few < many and more == pytest.approx(many, rel=0.2)
    assert rows[0]["efficiency"] > 2 * rows[1]["efficiency"]
    assert rows[1]["full_at_workers"] == pytest.approx(200, rel=0.1)


def test_the_sizes_of_clusters_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs, out = tmp_path / "costs.json", tmp_path / "out.json"
    costs.write_text(json.dumps({"costs": {"ours_trial_ms": 1.25}}))
    options = ["--costs", str(costs), "--json", str(out), "--workers", "4", "16"]
    options += ["--epoch-seconds", "60", "--hours", "0.5"]
    monkeypatch.setattr(sys, "argv", ["cluster_size.py", *options])
    main()
    assert "One driver, so many workers" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["costs"]["ours_trial_ms"] == 1.25
    assert [(row["workers"], row["relay"]) for row in found["rows"]] == [
        *((4, False), (16, False), (4, True), (16, True)),
    ]
    assert all(0 < row["efficiency"] <= 1 for row in found["rows"])
