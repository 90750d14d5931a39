"""Images with labels: what is refused, and what a fingerprint tells apart."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data.images import DataError, ImageShape, LabelledImages


def make(**changes: Any) -> LabelledImages:
    values: dict[str, Any] = {
        "images": np.arange(3 * 1 * 2 * 2, dtype=np.uint8).reshape(3, 1, 2, 2),
        "labels": np.array([0, 1, 1], dtype=np.int64),
        "classes": ("a", "b"),
        "name": "small",
        "origin": "a test",
    }
    return LabelledImages(**(values | changes))


def test_shape_states_what_a_network_needs() -> None:
    assert make().shape == ImageShape(channels=1, height=2, width=2, num_classes=2)
    assert make().num_images == 3


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"images": np.zeros((3, 1, 2, 2), dtype=np.float32)}, ValueError, "must be uint8"),
        ({"images": np.zeros((3, 2, 2), dtype=np.uint8)}, ValueError, "4 axes"),
        ({"images": np.zeros((3, 2, 2, 2), dtype=np.uint8)}, ValueError, "`channels` is 2"),
        ({"images": np.zeros((2, 2, 1, 3), dtype=np.uint8).T}, ValueError, "C-contiguous"),
        ({"labels": np.zeros(2, dtype=np.int64)}, ValueError, r"must be int64 of shape \(3,\)"),
        ({"labels": np.zeros(3, dtype=np.uint8)}, ValueError, "uint8 of shape"),
        ({"labels": np.array([0, 1, 2])}, DataError, "labels run from 0 to 2, .* between 0 and 1"),
        ({"labels": np.array([0, 1, -1])}, DataError, "labels run from -1 to 1"),
        ({"classes": ("a",), "labels": np.zeros(3, dtype=np.int64)}, DataError, "at least 2"),
        (
            {"images": np.zeros((0, 1, 2, 2), dtype=np.uint8), "labels": np.zeros(0, dtype=int)},
            DataError,
            "there is no image",
        ),
    ],
)
def test_refuses_what_is_not_images_with_labels(
    changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make(**changes)


def test_fingerprint_is_that_of_the_content_alone() -> None:
    assert make().fingerprint() == make(name="other", origin="elsewhere").fingerprint()
    expected = hashlib.sha256(b"((3, 1, 2, 2), ('a', 'b'))")
    expected.update(bytes(range(12)))
    expected.update(b"".join(label.to_bytes(8, "little") for label in (0, 1, 1)))
    assert make().fingerprint() == expected.hexdigest()


def test_fingerprint_changes_with_a_pixel_a_label_a_class_and_the_shape() -> None:
    data = make()
    pixel = data.images.copy()
    pixel[2, 0, 1, 1] += 1
    others = [
        replace(data, images=pixel),
        replace(data, labels=np.array([0, 1, 0])),
        replace(data, classes=("a", "c")),
        replace(data, images=data.images.reshape(3, 1, 4, 1)),
    ]

    assert len({one.fingerprint() for one in [data, *others]}) == 5


def test_take_copies_the_chosen_images_in_the_order_asked_for() -> None:
    data = make(synthetic=True)
    taken = data.take(np.array([2, 0]))

    np.testing.assert_array_equal(taken.images, data.images[[2, 0]])
    assert taken.labels.tolist() == [1, 0]
    assert (taken.classes, taken.name, taken.synthetic) == (data.classes, "small", True)
    assert not np.shares_memory(taken.images, data.images)


def test_survives_the_way_to_a_worker() -> None:
    data = make()

    assert pickle.loads(pickle.dumps(data)).fingerprint() == data.fingerprint()
