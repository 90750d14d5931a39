"""`space STUDY`: what is said of landscapes whose truth is known, and the child's study file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.landscape import SPACE, Landscape, searched, settings
from search.cli import app
from search.config.config_file import load_config
from search.config.cube import Cube
from search.explain.child import child_of, next_name, write_child
from search.explain.effects import Sample
from search.explain.space_advice import advise
from search.explain.space_change import cut, rounded, widened, without
from search.explain.space_findings import AtEnds, at_ends, dead, edges
from search.explain.space_page import space_page
from search.explain.space_regions import failing, weak
from search.record.study import Study, StudyError, open_study

KEYS = {key: (key,) for key in SPACE if key != "filters"}


def _rate(configuration: Any) -> float:
    return math.log10(configuration["learning_rate"])


def _rising(configuration: Any) -> float:
    """Rise with the learning rate beyond its bound; weight decay and schedule do nothing."""
    height = 0.85 + 0.03 * _rate(configuration) - 0.5 * (configuration["momentum"] - 0.75) ** 2
    height -= 0.3 * (configuration["dropout"] - 0.25) ** 2 + 0.02 * (not configuration["flip"])
    return float(height - 0.01 * (math.log2(configuration["batch_size"]) - 6.5) ** 2)


def _failing(configuration: Any) -> float | None:
    """Diverge where the learning rate is above 0.4; what matters is the momentum."""
    above = configuration["learning_rate"] > 0.4
    return None if above else 0.85 - 0.5 * (configuration["momentum"] - 0.75) ** 2


def _weak_choice(configuration: Any) -> float:
    return _rising(configuration) - (0.15 if configuration["schedule"] == "constant" else 0.0)


@pytest.fixture(scope="module")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """Return a function that gives a study of a landscape, drawn at random; made once each."""
    made: dict[tuple[str, int], Path] = {}

    def study(landscape: Landscape, trials: int = 120, **changes: Any) -> Study:
        key = (f"{landscape.__name__}-{sorted(changes)}", trials)
        if key not in made:
            content: dict[str, Any] = {"budget": {"trials": trials}, "sampler": {"kind": "random"}}
            config = settings(3, **(content | changes))
            made[key] = searched(tmp_path_factory.mktemp("runs") / "land", config, landscape)[
                0
            ].folder
        return open_study(made[key])

    return study


def test_a_bound_that_the_best_press_against_is_moved(study_of: Callable[..., Study]) -> None:
    advice = advise(study_of(_rising))
    (edge,) = [finding for finding in advice.findings if finding.kind == "edge"]
    assert (edge.key, edge.end) == ("learning_rate", "highest")
    assert edge.chance < 0.01
    change = next(c for c in advice.changes if c.parameter == "learning_rate")
    low, high = change.becomes["float"]
    # A third of its two decades further out.
    assert high == pytest.approx(4.7) and low >= 0.01 and change.becomes["log"] is True
    assert "of the" in change.why and "chance puts" in change.why


def test_parameters_that_did_nothing_are_fixed_at_the_bests_value(
    study_of: Callable[..., Study],
) -> None:
    study = study_of(_rising, 300)
    advice = advise(study)
    assert advice.did_nothing == {"weight_decay", "schedule"}
    rows = study.trials()
    best = min((t for t in rows if t.can_win), key=lambda t: t.merit)
    assert best.configuration is not None
    assert advice.space["schedule"] in SPACE["schedule"]["choice"]
    assert isinstance(advice.space["weight_decay"], float)
    assert "float" in advice.space["learning_rate"]


def test_a_region_in_which_trials_diverged_is_cut_off(study_of: Callable[..., Study]) -> None:
    advice = advise(study_of(_failing))
    (failed,) = [finding for finding in advice.findings if finding.kind == "failed"]
    assert (failed.key, failed.end) == ("learning_rate", "highest")
    assert failed.value > 0.4
    low, high = advice.space["learning_rate"]["float"]
    assert low == 0.01 and 0.3 < high <= 0.45
    assert "diverged or failed, against 0 of" in failed.evidence


def test_a_choice_that_was_always_weak_is_taken_out(study_of: Callable[..., Study]) -> None:
    advice = advise(study_of(_weak_choice))
    found = [(f.key, f.value) for f in advice.findings if f.kind == "weak"]
    assert ("schedule", "constant") in found
    assert advice.space["schedule"]["choice"] == ["one-cycle", "cosine"]


def test_few_trials_say_nothing_and_that_is_said(study_of: Callable[..., Study]) -> None:
    study = study_of(_rising, 20)
    advice = advise(study)
    assert advice.findings == () and advice.changes == ()
    assert dict(advice.space) == study.config.space
    assert advice.remark.startswith("Too few trials to tell what mattered: 20 trials")
    console = Console(width=80, record=True)
    console.print(space_page(advice, "child.yaml"))
    text = console.export_text()
    assert "cannot tell" in text and "bound hit" not in text


def test_a_study_without_any_value_is_told_so(tmp_path: Path) -> None:
    study, _ = searched(tmp_path / "land", settings(budget={"trials": 4}), lambda c: None)
    child = child_of(study)
    assert child.advice.trials == 0 and child.advice.failed == 4
    assert child.config.points == ()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 1),
        ({"chance": 0.05}, 0),  # one of ten questions
        ({"inside": 3}, 0),
        ({"slope_chance": 0.01}, 0),
        ({"drawn_chance": 0.06}, 0),
    ],
)
def test_a_bound_is_hit_only_where_every_test_says_so(changes: dict[str, Any], found: int) -> None:
    one: dict[str, Any] = {"end": "highest", "inside": 8, "of": 10, "expected": 1.0, "chance": 1e-6}
    one |= {"slope": 0.02, "slope_chance": 1e-4, "drawn_chance": 0.01}
    ends = {"momentum": [AtEnds(**(one | changes))]}
    others = AtEnds(**(one | {"chance": 0.9}))
    ends |= {f"other_{number}": [others] for number in range(9)}
    assert len(edges(ends, {name: name for name in ends})) == found


def _random_sample(rng: np.random.Generator, trials: int, values: Any) -> Sample:
    cube = Cube(settings().search_space().suggest)
    params = [cube.at(list(rng.random(len(cube.axes)))) for _ in range(trials)]
    scores = values(params, rng)
    order = np.argsort(-scores)
    return Sample(
        cube=cube,
        params=params,
        values=scores,
        weights=np.ones(trials),
        late=list(np.arange(trials) / trials),
        drawn=range(trials),
        best=[int(row) for row in order[: max(5, trials // 5)]],
        sound=params,
    )


def _all_findings(sample: Sample) -> list[Any]:
    ends = {name: at_ends(sample, name) for name in KEYS}
    found = edges(ends, {key: key for key in KEYS}) + weak(sample, KEYS)
    return found + failing(sample, KEYS) + dead(sample, KEYS, {})


def test_where_nothing_is_there_is_hardly_ever_a_finding() -> None:
    # 50 studies of noise, 80 random trials each; 5 % of them may show something of each kind.
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(50):
        sample = _random_sample(rng, 80, lambda params, r: r.normal(0.85, 0.01, len(params)))
        alarms += bool(_all_findings(sample))
    assert alarms <= 2


def test_failures_without_a_place_are_no_region() -> None:
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(50):
        sample = _random_sample(rng, 80, lambda params, r: r.normal(0.85, 0.01, len(params)))
        failed = list(sample.params[:10])
        found = failing(
            Sample(
                cube=sample.cube,
                params=sample.params[10:],
                values=sample.values[10:],
                weights=sample.weights[10:],
                failed=failed,
                sound=sample.params[10:],
            ),
            KEYS,
        )
        alarms += bool(found)
    assert alarms <= 2


def test_the_childs_file_says_what_was_changed_and_why(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of(_rising, 300)
    child = child_of(study)
    file = write_child(child, study, tmp_path / "child.yaml")
    assert write_child(child, study, file) == file  # the same again is no harm
    loaded = load_config(file)
    assert loaded == child.config
    assert loaded.space == dict(child.advice.space)
    changed = {"space", "points", "study", "seed"}
    assert loaded.model_dump(exclude=changed) == study.config.model_dump(exclude=changed)
    assert (loaded.study, loaded.seed) == (next_name("land"), study.config.seed + 1)
    lines = child.text.splitlines()
    for change in child.advice.changes:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  {change.parameter}:"))
        assert lines[at - 1].lstrip().startswith("#")
    commented = " ".join(line.lstrip(" #") for line in lines if line.lstrip().startswith("#"))
    assert "was {float: [0.01, 1.0], log: true}" in commented
    # The best trials come first again, in the new space.
    assert len(loaded.points) == 2
    assert all(point.keys() >= {"learning_rate", "momentum"} for point in loaded.points)


def test_a_childs_file_that_somebody_changed_is_not_overwritten(
    study_of: Callable[..., Study], tmp_path: Path
) -> None:
    study = study_of(_rising, 20)
    child, file = child_of(study), tmp_path / "child.yaml"
    file.write_text("study: mine\n")
    with pytest.raises(StudyError, match="is not what would be written now"):
        write_child(child, study, file)
    assert file.read_text() == "study: mine\n"


def test_the_command_shows_the_page_or_json(study_of: Callable[..., Study], tmp_path: Path) -> None:
    folder, file = study_of(_rising).folder, tmp_path / "next.yaml"
    arguments = ["space", str(folder), "--out", str(file)]
    page = CliRunner().invoke(app, arguments)
    assert page.exit_code == 0, page.output
    assert "bound hit" in page.output and "learning_rate" in page.output
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert content["file"] == str(file)
    assert {finding["kind"] for finding in content["findings"]} >= {"edge"}
    assert content["changes"][0].keys() == {"parameter", "was", "is", "why"}
    assert load_config(file).space == content["space"]


FREE: Callable[[Any], str] = lambda value: ""  # noqa: E731


@pytest.mark.parametrize(
    ("description", "end", "expected"),
    [
        ({"float": [0.01, 1.0], "log": True}, "lowest", {"float": [0.0021, 1.0], "log": True}),
        ({"float": [0.1, 0.4]}, "highest", {"float": [0.1, 0.5]}),
        ({"float": [0.1, 0.4]}, "lowest", {"float": [0.0, 0.4]}),
        ({"float": [0.0, 0.3], "step": 0.1}, "highest", {"float": [0.0, 0.4], "step": 0.1}),
        ({"int": [2, 5]}, "highest", {"int": [2, 6]}),
        ({"int": [16, 64], "log": True}, "highest", {"int": [16, 110], "log": True}),
        ({"choice": [16, 24, 32, 48, 64]}, "highest", {"choice": [16, 24, 32, 48, 64, 96]}),
        ({"choice": [64, 128, 256]}, "lowest", {"choice": [32, 64, 128, 256]}),
        ({"choice": [3, 5, 7]}, "highest", {"choice": [3, 5, 7, 9]}),
        ({"choice": [0.0, 0.05, 0.1]}, "highest", {"choice": [0.0, 0.05, 0.1, 0.15]}),
        ({"float": [0.0, 0.4]}, "lowest", {}),
        ({"choice": [0, 1, 2]}, "lowest", {}),
    ],
)
def test_a_range_is_widened_on_its_own_scale(
    description: dict[str, Any], end: Any, expected: dict[str, Any]
) -> None:
    changed, reason = widened(description, end, FREE)
    assert changed == expected
    assert bool(reason) == (not expected)


def test_a_range_is_widened_no_further_than_the_network_allows() -> None:
    def below_one(value: float) -> str:
        return "must be below 1" if value >= 1 else ""

    changed, _ = widened({"float": [0.5, 0.9]}, "highest", below_one)
    assert 0.9 < changed["float"][1] < 1
    assert widened({"float": [0.0, 0.99]}, "highest", lambda v: "no") == ({}, "no")


def test_bounds_and_choices_are_taken_away() -> None:
    assert cut({"float": [0.0, 0.5], "step": 0.1}, "highest", 0.3) == {
        "float": [0.0, 0.3],
        "step": 0.1,
    }
    assert cut({"choice": [8, 16, 32]}, "lowest", 16) == {"choice": [16, 32]}
    assert cut({"choice": [8, 16]}, "lowest", 16) is None
    assert without({"choice": ["a", "b", "c"]}, "b") == {"choice": ["a", "c"]}
    assert without({"choice": [True, False]}, False) is True
    assert rounded(0.4567, up=True) == 0.46 and rounded(0.4567, up=False) == 0.45
