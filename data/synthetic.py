"""Draw pictures of ten kinds of garment, so that everything can be tried without a download."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.garments import draw_garment
from data.images import FASHION_CLASSES, LabelledImages
from data.shapes import Array, Canvas

_SIZE = 28
_BLOCK = 250  # pictures that share one random generator, 25 of each class
_PARTS = {"train": 0, "test": 1}


def draw_garments(num_images: int, *, part: Literal["train", "test"], seed: int) -> LabelledImages:
    """Draw `num_images` grey pictures (N, 1, 28, 28) with the class names of Fashion-MNIST.

    Picture i depends on (seed, part, i) alone: asking for more adds to the end. Classes are
    balanced in every 250 pictures.
    """
    num_blocks = -(-num_images // _BLOCK)
    blocks = [_draw_block(seed, part, number) for number in range(num_blocks)]
    images = np.concatenate([images for images, _ in blocks])[:num_images]
    return LabelledImages(
        images=images[:, np.newaxis],
        labels=np.concatenate([labels for _, labels in blocks])[:num_images],
        classes=FASHION_CLASSES,
        name="synthetic",
        origin=f"drawn by this program, seed {seed}",
        synthetic=True,
    )


def _draw_block(
    seed: int, part: Literal["train", "test"], number: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    generator = np.random.default_rng([seed, _PARTS[part], number])
    num_classes = len(FASHION_CLASSES)
    each = _BLOCK // num_classes
    canvas = _posed_canvas(each * num_classes, generator)
    covers, tones = [], []
    for label in range(num_classes):
        mine = slice(label * each, (label + 1) * each)
        garment = draw_garment(
            label, Canvas(x=canvas.x[mine], y=canvas.y[mine], generator=generator)
        )
        covers.append(garment[0])
        tones.append(garment[1])
    lit = np.concatenate(tones) * _cloth(canvas)
    pixels = _photograph(np.concatenate(covers), lit, canvas)
    order = generator.permutation(_BLOCK)
    return pixels[order], np.repeat(np.arange(num_classes, dtype=np.int64), each)[order]


def _posed_canvas(num_images: int, generator: np.random.Generator) -> Canvas:
    """Lay a garment on each picture: shifted, turned, leaning, larger or smaller."""
    axis = (np.arange(_SIZE, dtype=np.float32) + 0.5) / _SIZE * 2 - 1
    flat = np.zeros((num_images, 1, 1), dtype=np.float32)
    plain = Canvas(x=flat + axis, y=flat + axis[:, np.newaxis], generator=generator)
    x = plain.x + plain.draw(-0.1, 0.1)
    y = plain.y + plain.draw(-0.1, 0.1)
    angle, lean = plain.draw(-0.1, 0.1), plain.draw(-0.08, 0.08)
    wide, tall = plain.draw(0.95, 1.25), plain.draw(0.95, 1.15)
    turned_x = (np.cos(angle) * x + np.sin(angle) * y + lean * y) * wide
    turned_y = (np.cos(angle) * y - np.sin(angle) * x) * tall
    return Canvas(x=turned_x, y=turned_y, generator=generator)


def _cloth(canvas: Canvas) -> Array:
    """Weave and light the cloth: plain, striped or checked, with soft folds. Around 1."""
    pitch, phase = canvas.draw(10, 26), canvas.draw(0, 6.28)
    sideways = canvas.chance(0.5)
    along = np.where(sideways, canvas.x, canvas.y)
    other = np.where(sideways, canvas.y, canvas.x)
    stripes = np.sin(pitch * along + phase)
    checks = stripes * np.sin(pitch * other + phase)
    pattern = np.where(canvas.chance(0.35), checks, stripes) * canvas.chance(0.4)
    folds = np.sin(
        canvas.draw(1, 4) * canvas.x + canvas.draw(1, 4) * canvas.y + canvas.draw(0, 6.28)
    )
    light = 1 + canvas.draw(-0.15, 0.15) * canvas.x + canvas.draw(-0.15, 0.15) * canvas.y
    cloth = light + canvas.draw(0.05, 0.4) * pattern + canvas.draw(0.0, 0.2) * folds
    return np.asarray(cloth)


def _photograph(covered: Array, lit: Array, canvas: Canvas) -> NDArray[np.uint8]:
    """Put the garment before a black ground, with its brightness and the camera's noise."""
    brightness = canvas.draw(70, 235)
    clean = covered * np.clip(lit, 0.12, None) * brightness
    grain = canvas.generator.standard_normal(clean.shape, dtype=np.float32)
    noisy = clean + grain * (canvas.draw(1, 6) + canvas.draw(0, 16) * covered)
    return np.clip(noisy, 0, 255).astype(np.uint8)
