"""The split: exact, stratified, repeatable; refused where a class would vanish."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.images import DataError
from data.split import split_fingerprint, stratified_split


def test_fashion_mnist_split_takes_a_tenth_of_each_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6_000))
    train, validation = stratified_split(labels, 6_000, seed=0)

    assert np.bincount(labels[validation]).tolist() == [600] * 10
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(60_000))
    assert train.dtype == validation.dtype == np.int64


def test_split_is_a_function_of_labels_number_and_seed() -> None:
    labels = np.repeat(np.arange(4), 50)
    first = stratified_split(labels, 40, seed=1)[1]

    np.testing.assert_array_equal(first, stratified_split(labels, 40, seed=1)[1])
    assert not np.array_equal(first, stratified_split(labels, 40, seed=2)[1])


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_each_class_keeps_its_share_to_the_image(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = max(1, round(share * len(labels)))
    try:
        train, validation = stratified_split(labels, wanted, seed)
    except DataError:
        # Refused only where rounding to the nearest image can leave a class empty.
        assert any(
            (exact := count * wanted / len(labels)) < 1 or exact > count - 1 for count in counts
        )
        return
    assert len(validation) == wanted
    assert np.all(np.diff(validation) > 0)
    assert np.all(np.diff(train) > 0)
    assert set(train) | set(validation) == set(range(len(labels)))
    for label, count in enumerate(counts):
        drawn = int((labels[validation] == label).sum())
        assert abs(drawn - count * wanted / len(labels)) < 1
        assert 0 < drawn < count


@pytest.mark.parametrize("num_validation", [0, -5, 100, 6_000])
def test_refuses_more_than_there_is_and_nothing(num_validation: int) -> None:
    labels = np.repeat(np.arange(10), 10)

    with pytest.raises(DataError, match=f"{num_validation} validation images .* 1 and 99"):
        stratified_split(labels, num_validation, seed=0)


def test_refuses_to_leave_a_class_without_images() -> None:
    rare = np.array([0] * 50 + [1] * 2)

    with pytest.raises(DataError, match=r"validation part has none of label 1 .* ask for more"):
        stratified_split(rare, 5, seed=0)
    with pytest.raises(DataError, match=r"training part has none of label 1 .* ask for fewer"):
        stratified_split(rare, 50, seed=0)


def test_fingerprint_depends_on_the_data_and_on_who_is_set_aside() -> None:
    chosen = np.array([3, 5, 8])

    assert split_fingerprint("ab", chosen) == split_fingerprint("ab", chosen[::-1])
    assert split_fingerprint("ab", chosen) != split_fingerprint("ac", chosen)
    assert split_fingerprint("ab", chosen) != split_fingerprint("ab", np.array([3, 5, 9]))
