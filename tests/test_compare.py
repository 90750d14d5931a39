"""What two sets of answers are worth against each other, and averaged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from search.final.compare import bootstrap_interval, compare, extra_rows


def test_the_bootstrap_interval_agrees_with_the_binomial_one() -> None:
    draw = np.random.default_rng(1)
    right = draw.random((1, 10_000)) < 0.92
    low, high = bootstrap_interval(right)
    mean, error = right.mean(), 1.96 * np.sqrt(0.92 * 0.08 / 10_000)
    assert low == pytest.approx(mean - error, abs=5e-4)
    assert high == pytest.approx(mean + error, abs=5e-4)


def test_the_bootstrap_interval_grows_where_seeds_differ() -> None:
    same = np.zeros((2, 1000), bool)
    same[:, :900] = True
    apart = same.copy()
    apart[1, 850:900] = False
    low, high = bootstrap_interval(apart)
    assert high - low > 0.04
    assert np.subtract(*bootstrap_interval(same)[::-1]) < 0.045


def rights(
    only_first: int, only_second: int, both: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two rows of right answers with that many of each kind."""
    first = np.array([True] * only_first + [False] * only_second + [True] * both)
    second = np.array([False] * only_first + [True] * only_second + [True] * both)
    return first[None], second[None]


def test_mcnemars_test_is_the_two_sided_binomial_of_the_images_only_one_got_right() -> None:
    winner, baseline = rights(9, 2, 500)
    told = compare(winner, baseline, name="seed-32", models=("winner-s0", "seed-32-s0"))
    assert (told["only_winner_right"], told["only_baseline_right"]) == (9, 2)
    # By hand: twice the probability of 9 or more heads of 11.
    assert told["p_value"] == pytest.approx(2 * sum(math.comb(11, k) for k in (9, 10, 11)) / 2**11)
    assert told["difference"] == pytest.approx(7 / 511)


def test_equal_answers_differ_by_nothing() -> None:
    winner, _ = rights(5, 5, 100)
    told = compare(winner, winner, name="seed-32", models=("winner-s0", "seed-32-s0"))
    assert told["p_value"] == 1 and told["difference"] == 0 and told["ci95"] == [0, 0]


def test_the_paired_interval_is_narrower_than_the_difference_of_two() -> None:
    winner, baseline = rights(60, 20, 920)
    told = compare(winner, baseline, name="seed-32", models=("winner-s0", "seed-32-s0"))
    low, high = told["ci95"]
    # The standard error of a paired difference: sqrt(b + c - (b - c)^2 / n) / n.
    error = math.sqrt(80 - 40**2 / 1000) / 1000
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < 0.04 < high


def test_mcnemars_test_is_of_the_first_seeds_and_the_difference_of_all() -> None:
    first, baseline = rights(9, 2, 500)
    winner = np.concatenate([first, np.zeros_like(first)])
    told = compare(winner, baseline, name="seed-32", models=("winner-s0", "seed-32-s0"))
    assert told["only_winner_right"] == 9
    assert told["difference"] == pytest.approx(winner.mean() - baseline.mean())


def test_averages_are_of_probabilities_and_rows_of_their_own() -> None:
    labels = np.array([0, 0])
    sure, unsure = [[9.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0]]
    answers = [np.array(sure, dtype=np.float32), np.array(unsure, dtype=np.float32)]
    flip, ensemble, both = extra_rows(answers, answers, labels)
    assert flip["test_accuracy"] == 0.5  # each seed alone, right once of two
    # The sure answer outweighs the unsure one on both images.
    assert ensemble["test_accuracy"] == both["test_accuracy"] == 1.0
    assert [row["kind"] for row in (flip, ensemble, both)] == ["flip", "ensemble", "ensemble+flip"]
    (alone,) = extra_rows(answers[:1], [answers[0][::-1]], labels)
    assert alone["kind"] == "flip"
