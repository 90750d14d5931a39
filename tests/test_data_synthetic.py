"""Drawn garments: repeatable, balanced, varied, and learnable but not trivially so."""

from __future__ import annotations

import numpy as np
import pytest

from data.garments import draw_garment
from data.images import FASHION_CLASSES
from data.shapes import Array, Canvas, cover, ellipse, limb, profile
from data.synthetic import draw_garments


def canvas_of(num_pictures: int, size: int = 41, seed: int = 0) -> Canvas:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    flat = np.zeros((num_pictures, 1, 1), dtype=np.float32)
    return Canvas(
        x=flat + axis, y=flat + axis[:, np.newaxis], generator=np.random.default_rng(seed)
    )


def test_pictures_look_like_fashion_mnist_to_a_program() -> None:
    data = draw_garments(500, part="train", seed=0)

    assert data.images.shape == (500, 1, 28, 28)
    assert data.images.dtype == np.uint8
    assert data.classes == FASHION_CLASSES
    assert data.synthetic
    # A garment on a black ground: most corners are dark, and something is bright.
    assert np.median(data.images[:, 0, 0, 0]) < 10
    assert (data.images.reshape(500, -1).max(axis=1) > 40).all()


def test_a_picture_depends_on_seed_part_and_number_alone() -> None:
    many = draw_garments(600, part="train", seed=0)
    few = draw_garments(260, part="train", seed=0)

    np.testing.assert_array_equal(few.images, many.images[:260])
    np.testing.assert_array_equal(few.labels, many.labels[:260])
    assert few.fingerprint() != draw_garments(260, part="train", seed=1).fingerprint()
    assert few.fingerprint() != draw_garments(260, part="test", seed=0).fingerprint()


def test_classes_are_balanced_and_mixed() -> None:
    labels = draw_garments(500, part="train", seed=0).labels

    assert np.bincount(labels).tolist() == [50] * 10
    assert len(set(labels[:25].tolist())) > 5


def test_no_two_pictures_are_the_same_within_and_across_the_parts() -> None:
    train = draw_garments(1_000, part="train", seed=0).images
    test = draw_garments(500, part="test", seed=0).images

    assert len(np.unique(np.concatenate([train, test]).reshape(1_500, -1), axis=0)) == 1_500


def test_kinds_can_be_told_apart_but_not_by_comparing_pixels_alone() -> None:
    train = draw_garments(2_000, part="train", seed=0)
    test = draw_garments(500, part="test", seed=0)
    known = train.images.reshape(2_000, -1).astype(np.float32) / 255
    asked = test.images.reshape(500, -1).astype(np.float32) / 255
    # The nearest training picture: |a - b|^2 = |a|^2 - 2ab + |b|^2, the first is the same for all.
    nearest = ((known**2).sum(1) - 2 * asked @ known.T).argmin(axis=1)
    accuracy = float((train.labels[nearest] == test.labels).mean())

    assert 0.4 < accuracy < 0.85  # chance is 0.1; a small CNN gets about 0.9 with 12,000 pictures


@pytest.mark.parametrize("label", range(10), ids=FASHION_CLASSES)
def test_each_kind_is_one_garment_of_varying_size(label: int) -> None:
    covered, tone = draw_garment(label, canvas_of(60))
    areas = covered.mean(axis=(1, 2))

    assert covered.shape == np.broadcast_shapes(covered.shape, tone.shape)
    assert np.isfinite(covered).all()
    assert np.isfinite(tone).all()
    assert 0 <= covered.min() <= covered.max() <= 1
    assert 0.02 < areas.min() < areas.max() < 0.75
    assert areas.std() > 0.005


def test_shapes_cover_what_geometry_says() -> None:
    canvas = canvas_of(1, size=401)
    pixel = 2 / 400

    def area(distance: Array) -> float:
        return float(cover(distance, pixel).sum()) * pixel**2

    assert area(ellipse(canvas, (0.1, 0.0), (0.5, 0.3))) == pytest.approx(np.pi * 0.15, rel=0.02)
    # A bar of length 0.8 and radius 0.1 with round ends.
    bar = limb(canvas, (-0.4, 0.0), (0.4, 0.0), 0.1, 0.1)
    assert area(bar) == pytest.approx(0.8 * 0.2 + np.pi * 0.01, rel=0.02)
    # A trapezium 0.4 wide above and 0.8 below, 1.0 tall.
    trapezium = profile(canvas.y, canvas.x, [(-0.5, 0.2), (0.5, 0.4)])
    assert area(trapezium) == pytest.approx(0.6, rel=0.02)
