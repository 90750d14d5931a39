"""The race of finalists as statistics: who leaves, when it ends, who is chosen, how sure one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.final.belief import believe, optimism
from search.final.race import Entrant, Verdict, judge

IMAGES = {"validation_images": 6000, "train_images": 54000}
SPLIT = {"max_rounds": 5, **IMAGES}
Row = list[float | None]


def entrants(**sizes: int) -> list[Entrant]:
    return [
        Entrant(
            name=name,
            kind="finalist",
            trial=name,
            parameters=size,
            epochs=9,
            search_value=0.93,
            search_epochs=9,
        )
        for name, size in sizes.items()
    ]


def race(truth: Mapping[str, float], draw: np.random.Generator, noise: float) -> Verdict:
    """Race with noise of that standard deviation, and luck of the rounds, until it is over."""
    runners = entrants(**dict.fromkeys(truth, 1000))
    values: dict[str, Row] = {name: [] for name in truth}
    verdict, rounds = None, 0
    while verdict is None or not verdict.ended:
        rounds = max(2, rounds + 1)
        while len(values[next(iter(verdict.alive if verdict else truth))]) < rounds:
            luck = draw.normal(0, 0.004)
            for name in verdict.alive if verdict else truth:
                values[name].append(truth[name] + luck + draw.normal(0, noise))
        verdict = judge(runners, values, **SPLIT)
        assert verdict is not None
    return verdict


def test_differences_do_not_depend_on_the_luck_of_the_rounds() -> None:
    values: dict[str, Row] = {"a": [0.91, 0.92, 0.90], "b": [0.90, 0.91, 0.89]}
    shifted: dict[str, Row] = {
        name: [v + luck for v, luck in zip(row, (0.01, -0.02, 0.03), strict=True) if v]
        for name, row in values.items()
    }
    plain, moved = believe(values, **IMAGES), believe(shifted, **IMAGES)
    for belief in (plain, moved):
        assert np.diff(belief.means) == pytest.approx([-0.01])
    assert plain.error_between("a", "b") == pytest.approx(
        moved.error_between("a", "b"),
        rel=0.1,  # the prior's variance is of another mean
    )


def test_the_error_of_a_difference_is_the_paired_t_tests_where_the_prior_weighs_little() -> None:
    draw = np.random.default_rng(3)
    a, b = draw.normal(0.9, 0.02, 400), draw.normal(0.9, 0.02, 400)
    belief = believe({"a": a.tolist(), "b": b.tolist()}, validation_images=100, train_images=10**9)
    # Two observations of the binomial variance of one accuracy weigh 2 in 401.
    mean = np.mean([a, b])
    prior = 2 * mean * (1 - mean) / 100
    variance = (((a - b) / np.sqrt(2)).var(ddof=1) * 399 + prior) / 401
    assert belief.error_between("a", "b") == pytest.approx(np.sqrt(2 * variance / 400), rel=1e-3)


def test_overlapping_training_images_make_one_less_sure() -> None:
    values: dict[str, Row] = {"a": [0.91, 0.92], "b": [0.90, 0.915]}
    few = believe(values, validation_images=6000, train_images=54000).error_between("a", "b")
    none = believe(values, validation_images=6000, train_images=10**12).error_between("a", "b")
    assert few / none == pytest.approx(np.sqrt(1 + 2 / 9))


def test_who_cannot_be_best_leaves_after_two_rounds_and_the_rest_go_on() -> None:
    values: dict[str, Row] = {"a": [0.920, 0.922], "b": [0.9205, 0.921], "far": [0.90, 0.901]}
    verdict = judge(entrants(a=5, b=5, far=1), values, **SPLIT)
    assert verdict is not None
    assert verdict.ended == "" and set(verdict.alive) == {"a", "b"}
    assert verdict.left["far"][0] == 2 and "probability" in verdict.left["far"][1]
    assert verdict.p_best["a"] + verdict.p_best["b"] + verdict.p_best["far"] == pytest.approx(1)


def test_nobody_leaves_after_one_round() -> None:
    verdict = judge(entrants(a=5, far=1), {"a": [0.92], "far": [0.5]}, **SPLIT)
    assert verdict is not None and set(verdict.alive) == {"a", "far"} and not verdict.ended


def test_a_round_that_one_has_not_run_does_not_count_yet() -> None:
    assert judge(entrants(a=5, b=5), {"a": [0.92], "b": []}, **SPLIT) is None
    values: dict[str, Row] = {"a": [0.92, 0.921, 0.99], "b": [0.92, 0.9215]}
    verdict = judge(entrants(a=5, b=5), values, **SPLIT)
    assert verdict is not None and verdict.rounds == 2


def test_who_diverges_leaves_and_a_race_of_nobody_has_no_verdict() -> None:
    values: dict[str, Row] = {"a": [0.92, 0.93], "b": [None]}
    verdict = judge(entrants(a=5, b=1), values, **SPLIT)
    assert verdict is not None
    assert verdict.left["b"] == (1, "diverged in round 1")
    assert verdict.chosen == "a" and verdict.ended == "only a was left after 2 rounds"
    assert judge(entrants(a=5, b=1), {"a": [None], "b": [None]}, **SPLIT) is None


def test_where_all_who_lead_diverge_one_that_had_left_is_chosen() -> None:
    values: dict[str, Row] = {
        "a": [0.92, 0.93, None],
        "b": [0.921, 0.929, None],
        "c": [0.90, 0.901],
    }
    before = judge(entrants(a=5, b=5, c=5), {n: row[:2] for n, row in values.items()}, **SPLIT)
    assert before is not None and before.left["c"][0] == 2 and not before.ended
    verdict = judge(entrants(a=5, b=5, c=5), values, **SPLIT)
    assert verdict is not None
    assert (verdict.chosen, verdict.alive) == ("c", ("c",))
    assert verdict.ended == "everybody who had led diverged" and set(verdict.left) == {"a", "b"}


def test_the_smaller_network_wins_within_one_standard_error_and_only_there() -> None:
    near: dict[str, Row] = {"big": [0.920, 0.921, 0.9225], "small": [0.919, 0.9215, 0.921]}
    verdict = judge(entrants(big=9000, small=10), near, max_rounds=3, **IMAGES)
    assert verdict is not None
    assert (verdict.leader, verdict.chosen) == ("big", "small")
    assert "10 parameters" in verdict.reason and "standard error" in verdict.reason
    bigger = judge(entrants(big=10, small=9000), near, max_rounds=3, **IMAGES)
    assert bigger is not None and bigger.chosen == "big"
    apart: dict[str, Row] = {"big": [0.930, 0.931, 0.9325], "small": [0.927, 0.9285, 0.929]}
    far = judge(entrants(big=9000, small=10), apart, max_rounds=3, **IMAGES)
    assert far is not None and far.chosen == "big" and "no smaller one" in far.reason


def test_the_race_ends_at_its_last_round_or_where_going_on_does_not_matter() -> None:
    values: dict[str, Row] = {"a": [0.92, 0.90], "b": [0.90, 0.92]}
    last = judge(entrants(a=5, b=5), values, max_rounds=2, **IMAGES)
    assert last is not None and last.ended == "these were all the rounds there are"
    alike: dict[str, Row] = {"a": [0.92] * 4, "b": [0.92] * 4}
    none = judge(
        entrants(a=5, b=5), alike, max_rounds=9, validation_images=10**7, train_images=10**8
    )
    assert none is not None and none.ended.startswith("going on would not matter")
    assert none.p_best["a"] == pytest.approx(0.5, abs=0.02)


def test_the_verdict_depends_on_the_values_alone() -> None:
    values: dict[str, Row] = {"a": [0.920, 0.922], "b": [0.921, 0.921], "c": [0.90, 0.9]}
    runners = entrants(a=3, b=2, c=1)
    assert judge(runners, values, **SPLIT) == judge(runners, values, **SPLIT)
    # A value of a later round changes nothing of who had left before.
    more = {name: [*row, 0.92] if name != "c" else row for name, row in values.items()}
    later = judge(runners, more, **SPLIT)
    assert later is not None and later.left["c"][0] == 2


def test_the_probability_to_be_best_is_as_often_right_as_it_says() -> None:
    draw, sure, right = np.random.default_rng(5), [], []
    for _ in range(60):
        truth = {name: float(draw.normal(0.92, 0.003)) for name in "abcd"}
        verdict = race(truth, draw, noise=0.003)
        best = max(truth, key=lambda name: truth[name])
        sure.append(verdict.p_best[verdict.leader])
        right.append(verdict.leader == best)
    assert np.mean(right) == pytest.approx(np.mean(sure), abs=0.14)
    assert np.mean(right) > 0.5  # a choice at random is right in a quarter


@pytest.mark.parametrize("rounds", [2, 5])
def test_the_interval_of_the_optimism_holds_the_truth_as_often_as_it_says(rounds: int) -> None:
    draw, held = np.random.default_rng(7), []
    for _ in range(300):
        luck = draw.normal(0, 0.003, rounds)
        values: dict[str, Any] = {
            name: (0.92 + luck + draw.normal(0, 0.003, rounds)).tolist() for name in "abcd"
        }
        told = optimism(values, "a", 0.93, **IMAGES)
        assert told is not None
        low, high = told["ci95"]
        held.append(low <= 0.93 - 0.92 <= high)
    # Of 300, 95 % and their own luck; the correction for overlapping images makes it wider.
    assert np.mean(held) >= float(stats.binom.ppf(0.001, 300, 0.95)) / 300


def test_optimism_is_the_searchs_value_less_the_mean_and_none_where_it_diverged() -> None:
    told = optimism({"a": [0.92, 0.91], "b": [0.9, 0.9]}, "a", 0.93, **IMAGES)
    assert told is not None
    assert told["remeasured"] == pytest.approx(0.915)
    assert told["optimism"] == pytest.approx(0.015)
    assert optimism({"a": [0.92, None]}, "a", 0.93, **IMAGES) is None
