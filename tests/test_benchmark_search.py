"""The benchmark of searches: what is simulated, how it is scored, and its peers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scores
from benchmarks.curve_table import CurveTable, TableError, load_table
from benchmarks.figure import draw_regret
from benchmarks.method import METHODS, Job, MethodError, Point, Problem, load_factory
from benchmarks.search import main
from benchmarks.simulation import Course, simulate

CHECKOUT = Path(__file__).parent.parent
TIMED = {"ask_seconds_share", "ask_p95_ms"}


def _arrays(**changes: Any) -> dict[str, Any]:
    """Return a table of three rows by hand; one dimension, at 0, 0.4 and 1 of the cube."""
    arrays: dict[str, Any] = {
        "names": np.array(["x"]),
        "is_log": np.array([False]),
        "is_int": np.array([False]),
        "lower": np.array([10.0]),
        "upper": np.array([20.0]),
        "configs": np.array([[10.0], [14.0], [20.0]]),
        "metric": np.array([[10, 20, 30], [5, 50, 40], [1, 2, 60]], dtype=np.float32),
        "seconds": np.array([[1, 2, 3], [2, 4, 6], [1, 2, 3]], dtype=np.float32),
        "direction": np.array("max"),
    }
    return arrays | changes


def _table(folder: Path, name: str = "made", **changes: Any) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, **_arrays(**changes))
    return path


def _random_table(folder: Path, name: str = "random", direction: str = "max") -> Path:
    """Write 60 rows of 3 dimensions and 9 epochs; some diverge, one dimension has one value."""
    draw = np.random.default_rng(1)
    configs = np.column_stack(
        [10 ** draw.uniform(-4, -1, 60), draw.integers(1, 6, 60), np.full(60, 0.5)]
    )
    best = 90 - 4 * (np.log10(configs[:, :1]) + 2.5) ** 2 - configs[:, 1:2]
    metric = best - 30 / np.arange(1, 10) + draw.normal(0, 0.3, (60, 9))
    metric[:5, 4:] = np.nan
    metric[5, :] = np.inf
    metric[6, -1] = -1e16
    return _table(
        folder,
        name,
        names=np.array(["rate", "layers", "fixed"]),
        is_log=np.array([True, False, False]),
        is_int=np.array([False, True, False]),
        lower=np.array([1e-4, 1.0, 0.5]),
        upper=np.array([1e-1, 5.0, 0.5]),
        configs=configs,
        metric=metric if direction == "max" else -metric,
        seconds=np.arange(1.0, 10.0) * draw.uniform(1, 3, (60, 1)),
        direction=np.array(direction),
    )


class _Scripted:
    """Asks for what it is told to, and notes what it is told."""

    def __init__(self, jobs: list[Job], pauses: set[tuple[int, int]]) -> None:
        self._jobs = iter(jobs)
        self._pauses = pauses
        self.points: dict[int, float] = {}
        self.reports: list[tuple[int, int, float | None]] = []

    def ask(self) -> Job:
        return next(self._jobs, Job(trial=99, point=np.array([0.0])))

    def started(self, trial: int, point: Point) -> None:
        self.points[trial] = float(point[0])

    def report(self, trial: int, epoch: int, value: float | None) -> bool:
        self.reports.append((trial, epoch, value))
        return (trial, epoch) not in self._pauses


def _at(trial: int, place: float) -> Job:
    return Job(trial=trial, point=np.array([place]))


def _scripted() -> _Scripted:
    # Trial 0 is paused after its first epoch, and gone on with once trial 2 has given up.
    again = Job(trial=0, point=None)
    return _Scripted([_at(0, 0.0), _at(1, 0.45), _at(2, 0.9), again], {(0, 1), (2, 1)})


def test_two_workers_spend_what_can_be_counted_by_hand(tmp_path: Path) -> None:
    method = _scripted()
    course = simulate(load_table(_table(tmp_path)), method, workers=2, budget=100)
    assert method.reports == [
        (0, 1, 10.0),  # at 1 s; 1 s spent
        (1, 1, 5.0),  # at 2 s; 3 s
        (2, 1, 1.0),  # at 2 s, begun after the one before; 4 s
        (0, 2, 20.0),  # at 3 s; 5 s, one second for the second epoch
        (1, 2, 50.0),  # at 4 s; 7 s
        (0, 3, 30.0),  # at 4 s; 8 s
        (1, 3, 40.0),  # at 6 s; 10 s
    ]
    # A full training costs 3 s, the median row's.
    assert course.spent.tolist() == pytest.approx([1 / 3, 5 / 3, 7 / 3])
    assert course.finals.tolist() == [30.0, 30.0, 40.0]
    assert course.trials == 3


def test_the_run_ends_when_the_budget_is_spent(tmp_path: Path) -> None:
    method = _scripted()
    simulate(load_table(_table(tmp_path)), method, workers=2, budget=7 / 3)
    assert method.reports[-1] == (1, 2, 50.0)


def test_what_was_spent_is_less_than_the_budget_where_no_row_is_left(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    assert simulate(table, _scripted(), workers=2, budget=100).total == pytest.approx(10 / 3)
    assert simulate(table, _scripted(), workers=2, budget=7 / 3).total == pytest.approx(7 / 3)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_regret_is_that_of_the_configuration_to_return(tmp_path: Path, direction: str) -> None:
    metric = _arrays()["metric"]
    path = _table(
        tmp_path,
        metric=metric if direction == "max" else -metric,
        direction=np.array(direction),
    )
    table = load_table(path)
    course = simulate(table, _scripted(), workers=2, budget=100)
    # Before the first epoch the median row's, 60 - 40; then row 0's; then row 1's.
    assert [scores.regret(table, course, spent) for spent in (0.3, 2.0, 2.4, 100.0)] == [
        20.0,
        30.0,
        20.0,
        20.0,
    ]


def test_the_later_of_equal_values_is_returned(tmp_path: Path) -> None:
    metric = np.array([[7, 7, 30], [7, 7, 40], [1, 2, 60]], dtype=np.float32)
    table = load_table(_table(tmp_path, metric=metric))
    method = _Scripted([_at(0, 0.0), _at(1, 0.4), _at(2, 1.0)], {(0, 1), (1, 1), (2, 1)})
    course = simulate(table, method, workers=1, budget=100)
    assert course.finals.tolist() == [30.0, 40.0]


def test_a_diverged_trial_ends_and_its_method_is_told_none(tmp_path: Path) -> None:
    metric = np.array([[10, np.nan, 30], [5, np.inf, np.nan], [1, 2, 20]], dtype=np.float32)
    table = load_table(_table(tmp_path, metric=metric))
    method = _Scripted([_at(0, 0.0), _at(1, 0.4), _at(2, 1.0)], set())
    simulate(table, method, workers=1, budget=100)
    assert method.reports == [
        (0, 1, 10.0),
        (0, 2, None),
        (1, 1, 5.0),
        (1, 2, None),
        (2, 1, 1.0),
        (2, 2, 2.0),
        (2, 3, 20.0),
    ]


def test_returning_a_configuration_that_diverges_is_as_bad_as_the_median_row(
    tmp_path: Path,
) -> None:
    metric = np.array([[90, 95, np.nan], [5, 6, 40], [1, 2, 60]], dtype=np.float32)
    table = load_table(_table(tmp_path, metric=metric))
    course = simulate(table, _Scripted([_at(0, 0.0)], set()), workers=1, budget=1)
    # The lower of the two finite rows is their median.
    assert scores.regret(table, course, 1.0) == 20.0


def test_a_suggestion_is_matched_to_the_nearest_row_not_run_yet(tmp_path: Path) -> None:
    method = _Scripted([_at(4, 0.1), _at(5, 0.1), _at(6, 0.1)], set())
    course = simulate(load_table(_table(tmp_path)), method, workers=1, budget=100)
    assert method.points == pytest.approx({4: 0.0, 5: 0.4, 6: 1.0})
    assert course.duplicates == pytest.approx(2 / 3)
    assert course.trials == 3, "the fourth suggestion found no row"


def test_logarithmic_dimensions_are_matched_in_the_logarithm(tmp_path: Path) -> None:
    path = _table(
        tmp_path,
        is_log=np.array([True]),
        lower=np.array([1e-4]),
        upper=np.array([1.0]),
        configs=np.array([[1e-4], [1e-3], [1e-1]]),
    )
    assert load_table(path).points[:, 0].tolist() == pytest.approx([0.0, 0.25, 0.75])


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (Job(trial=7, point=None), "unknown"),
        (Job(trial=0, point=None), "running"),
    ],
)
def test_only_a_paused_trial_can_be_gone_on_with(tmp_path: Path, job: Job, state: str) -> None:
    table = load_table(_table(tmp_path))
    with pytest.raises(ValueError, match=f"trial {job.trial}, which is {state}"):
        simulate(table, _Scripted([_at(0, 0.0), job], set()), workers=2, budget=1)


def test_a_trial_at_its_end_cannot_be_gone_on_with(tmp_path: Path) -> None:
    method = _Scripted([_at(0, 0.0), Job(trial=0, point=None)], set())
    with pytest.raises(ValueError, match="trial 0, which is at its end"):
        simulate(load_table(_table(tmp_path)), method, workers=1, budget=9)


def test_a_number_names_one_trial(tmp_path: Path) -> None:
    method = _Scripted([_at(0, 0.0), _at(0, 1.0)], set())
    with pytest.raises(ValueError, match="number 0 to two trials"):
        simulate(load_table(_table(tmp_path)), method, workers=2, budget=1)


def _course(spent: list[float], finals: list[float]) -> Course:
    return Course(
        spent=np.array(spent),
        finals=np.array(finals),
        total=spent[-1],
        trials=1,
        duplicates=0.0,
        ask_seconds=np.array([0.001]),
        thinking=0.0,
    )


def test_cost_to_a_target_is_told_as_quartiles_of_seeds(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    courses = [
        _course([1.0, 4.0], [30.0, 40.0]),
        _course([2.0], [60.0]),
        _course([1.0, 3.0, 8.0], [30.0, 30.0, 40.0]),
        _course([1.0], [30.0]),
    ]
    found = scores.summarise(table, courses, budget=10, targets={"40": 40.0})
    assert found["to_target"]["40"] == {
        "value": 40.0,
        "q25": 3.5,  # of 2, 4, 8 and never
        "median": 6.0,
        "q75": None,
        "share": 0.75,
    }
    assert found["regret_mean"] == {"10": pytest.approx((20 + 0 + 20 + 30) / 4)}


def test_targets_are_values_that_few_rows_reach(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    found = scores.targets_of(table, [35.0, 40.0, 50.0, 61.0])
    assert found == {"50": 50.0, "top 0.5 %": 60.0, "top 0.1 %": 60.0}


def test_targets_of_a_falling_metric_are_in_its_own_unit(tmp_path: Path) -> None:
    path = _table(tmp_path, direction=np.array("min"))
    assert scores.targets_of(load_table(path), [35.0, 60.0])["35"] == -35.0


def test_ranks_average_equals() -> None:
    ranks = scores.rank_methods(np.array([[[0.0, 0.5, 0.5, 9.0]]]))
    assert ranks.tolist() == [[[1.0, 2.5, 2.5, 4.0]]]


def test_ranks_are_compared_seed_by_seed() -> None:
    ranks = np.array([[[1.0, 2.0], [1.0, 2.0]], [[2.0, 1.0], [1.0, 2.0]]])
    found = scores.summarise_ranks(ranks, ["a", "random-asha"], against="random-asha")
    assert found["a"]["mean"] == 1.25
    assert found["a"]["minus random-asha"]["mean"] == -0.5
    assert found["a"]["minus random-asha"]["interval"] == [-1.0, 0.0]
    assert "minus random-asha" not in found["random-asha"]


def _numbers(path: Path) -> dict[str, Any]:
    """Return the JSON without what a clock has measured."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for methods in summary["tables"].values():
        for of_method in methods.values():
            for key in TIMED:
                assert of_method.pop(key) >= 0
    return summary


def test_the_same_seeds_give_the_same_numbers_in_any_number_of_processes(tmp_path: Path) -> None:
    tables = [str(_random_table(tmp_path)), str(_random_table(tmp_path, "falling", "min"))]
    options = ["--seeds", "3", "--budget", "12", "--methods", "random", "--target", "85"]
    assert main([*tables, *options, "--json", str(tmp_path / "one.json")]) == 0
    assert main([*tables, *options, "--json", str(tmp_path / "two.json"), "--processes", "2"]) == 0
    one, two = _numbers(tmp_path / "one.json"), _numbers(tmp_path / "two.json")
    assert one["tables"] == two["tables"]
    assert one["ranks"] == two["ranks"]
    # Turning the metric round turns nothing else round.
    for found in (one["tables"]["random"], one["tables"]["falling"]):
        assert found["random"]["regret"] == one["tables"]["random"]["random"]["regret"]


def test_first_seed_shifts_the_seeds(tmp_path: Path) -> None:
    table = str(_random_table(tmp_path))
    out = tmp_path / "out.json"
    regrets = []
    for first, seeds in ((0, 3), (2, 1)):
        options = ["--first-seed", str(first), "--seeds", str(seeds), "--methods", "random"]
        assert main([table, *options, "--budget", "3", "--json", str(out)]) == 0
        regrets.append(_numbers(out)["tables"]["random"]["random"]["regret"]["3"])
    assert regrets[0][2:] == regrets[1]


def test_the_json_has_the_form_that_readers_rely_on(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.json"
    options = ["--methods", "random,random-asha", "--seeds", "2", "--budget", "40"]
    assert main([str(_random_table(tmp_path)), *options, "--json", str(out)]) == 0
    summary = json.loads(out.read_text(encoding="utf-8"))
    assert set(summary) == {"tables", "ranks", "conditions"}
    found = summary["tables"]["random"]["random-asha"]
    for key in ("regret_mean", "regret_sem", "regret_median", "regret_interval"):
        assert list(found[key]) == ["10", "30", "40"]
    assert set(found["to_target"]) == {"top 0.5 %", "top 0.1 %"}
    assert found["seeds"] == 2
    assert set(found) >= {"duplicates", "ask_seconds_share", "ask_p95_ms", "trials"}
    assert set(summary["ranks"]["40"]["random"]) == {"mean", "interval", "minus random-asha"}
    assert summary["conditions"]["tables"]["random"]["rows"] == 60


def test_the_script_runs_from_anywhere_and_finds_this_checkout(tmp_path: Path) -> None:
    table = _random_table(tmp_path)
    options = ["--methods", "random", "--seeds", "1", "--budget", "2"]
    options += ["--json", "out.json", "--figure", "out.png"]
    script = CHECKOUT / "benchmarks" / "search.py"
    answer = subprocess.run(
        [sys.executable, str(script), str(table), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "Mean rank" in answer.stdout
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_is_drawn_of_regrets_that_reach_nothing(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    panels = [(table, {f"method {i}": [_course([0.1], [60.0])] for i in range(9)})] * 4
    draw_regret(tmp_path / "all.png", panels, budget=10)
    assert (tmp_path / "all.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"direction": np.array("up")}, "direction is 'up'; it must be 'max' or 'min'"),
        ({"metric": np.zeros((2, 3))}, r"metric has shape \(2, 3\); it must be \(3, 3\)"),
        ({"seconds": np.zeros((3, 2))}, r"seconds has shape \(3, 2\); it must be \(3, 3\)"),
        ({"upper": np.zeros(2)}, r"upper has shape \(2,\); it must be \(1,\)"),
        ({"metric": np.full((3, 3), np.nan)}, "no row has a finite metric"),
        ({"metric": np.array([["a"] * 3] * 3)}, "metric holds <U1, not numbers"),
        ({"metric": np.zeros(3)}, "configs and metric must have two axes"),
        ({"configs": np.zeros((0, 1)), "metric": np.zeros((0, 3))}, "0 rows, 1 dimensions"),
        ({"seconds": np.array([[3.0, 2, 1]] * 3)}, "seconds must be finite, 0 or more"),
        ({"seconds": np.zeros((3, 3))}, "trains in 0 seconds"),
        ({"is_log": np.array([True]), "lower": np.array([0.0])}, "x is logarithmic"),
        ({"lower": np.array([30.0])}, "x: lower 30 is above upper 20"),
        ({"configs": np.array([[10.0], [14.0], [21.0]])}, "row 2 lies outside the bounds of x"),
        ({"configs": np.array([[10.0], [np.nan], [20.0]])}, "x has a bound or a value"),
        ({"names": np.array([{}], dtype=object)}, "cannot be read as an .npz file"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_in_a_line(
    tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(TableError, match=reason) as caught:
        load_table(_table(tmp_path, **changes))
    assert "made.npz: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no such file"):
        load_table(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("words", encoding="utf-8")
    with pytest.raises(TableError, match=r"cannot be read as an \.npz file: it is none"):
        load_table(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", metric=np.zeros(3))
    with pytest.raises(TableError, match="has no names, is_log"):
        load_table(tmp_path / "part.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(TableError, match="one array, not an"):
        load_table(tmp_path / "array.npy")


def test_what_cannot_be_run_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(_table(tmp_path))
    (tmp_path / "more").mkdir()
    twin = str(_table(tmp_path / "more"))
    out = ["--json", str(tmp_path / "out.json")]
    for arguments, reason in (
        ([str(tmp_path / "none.npz")], "none.npz: there is no such file"),
        ([table, "--methods", "rndom"], "there is no method 'rndom'; there are: ours,"),
        ([table, "--methods", "random,random"], "method random is given twice"),
        ([table, twin, "--methods", "random"], "two tables are called made"),
        ([table, "--methods", "random", "--figure", str(tmp_path)], "is a folder, but results"),
    ):
        assert main([*arguments, *out]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and reason in error
        assert error.count("\n") == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.peers_dehb", raising=False)
    monkeypatch.setitem(sys.modules, "dehb", None)
    with pytest.raises(MethodError, match="python -m pip install --no-deps dehb==") as caught:
        load_factory("dehb")
    assert "\n" not in str(caught.value)


def _problem(table: CurveTable) -> Problem:
    return Problem(names=table.names, max_epochs=table.max_epochs, budget=6)


@pytest.mark.filterwarnings("ignore")  # the peers' own business
@pytest.mark.parametrize("name", [name for name in METHODS if name != "syne-asha-bore"])  # slow
def test_a_method_replays_a_table_the_same_way_twice(tmp_path: Path, name: str) -> None:
    try:
        factory = load_factory(name)
    except MethodError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    table = load_table(_random_table(tmp_path))
    courses = [
        simulate(table, factory(_problem(table), 3, 5), workers=3, budget=6) for _ in range(2)
    ]
    assert courses[0].trials > 5
    assert courses[0].spent.tolist() == courses[1].spent.tolist()
    assert courses[0].finals.tolist() == courses[1].finals.tolist()
    assert courses[0].spent[-1] <= 6 + 3


def test_optuna_is_told_the_rows_that_were_run(tmp_path: Path) -> None:
    from benchmarks.peers_optuna import OptunaTpe, tpe_successive_halving

    table = load_table(_random_table(tmp_path))
    method = tpe_successive_halving(_problem(table), 1, 0)
    assert isinstance(method, OptunaTpe)
    simulate(table, method, workers=2, budget=6)
    rows = {tuple(point) for point in table.points.tolist()}
    told = [tuple(trial.params.values()) for trial in method._study.trials]
    assert set(told) <= rows
    assert len(set(told)) == len(told)


def test_dehb_goes_on_with_what_it_promotes(tmp_path: Path) -> None:
    pytest.importorskip("dehb", reason="pip install --no-deps dehb==0.1.2")
    from benchmarks.peers_dehb import Dehb

    table = load_table(_random_table(tmp_path))
    epochs: dict[int, list[int]] = {}

    class Spied(Dehb):
        def report(self, trial: int, epoch: int, value: float | None) -> bool:
            epochs.setdefault(trial, []).append(epoch)
            return super().report(trial, epoch, value)

    method = Spied(_problem(table), 1, 0)
    simulate(table, method, workers=1, budget=6)
    assert all(seen == list(range(1, len(seen) + 1)) for seen in epochs.values())
    assert {len(seen) for seen in epochs.values()} >= {1, 3, 9}, "its fidelities, eta 3"
    rows = {tuple(point) for point in table.points.tolist()}
    for optimizer in method._dehb.de.values():
        done = np.isfinite(optimizer.fitness)
        assert {tuple(config) for config in optimizer.population[done].tolist()} <= rows


def test_ray_stops_at_its_rungs_only() -> None:
    from benchmarks.peers_ray import random_asha_r2e4

    method = random_asha_r2e4(Problem(names=("x",), max_epochs=20, budget=6), 1, 0)
    for trial in range(4):
        method.started(trial, np.array([0.5]))
    assert [method.report(0, epoch, 0.9) for epoch in (1, 2, 3)] == [True, True, True]
    assert [method.report(1, epoch, 0.1) for epoch in (1, 2)] == [True, False]
    assert method.report(2, 1, None) is False
    assert [method.report(3, epoch, 0.9 + epoch) for epoch in (2, 8, 19)] == [True] * 3


def test_nothing_is_known_of_a_run_without_a_budget_for_one_epoch(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    course = simulate(table, _scripted(), workers=1, budget=0.1)
    assert scores.regret(table, course, 0.1) == 20.0
    assert math.isinf(scores.spent_until(course, 30.0, 0.1))
