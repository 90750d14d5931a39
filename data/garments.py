"""Draw the outlines and the parts of ten kinds of garment, each kind with its own variety.

Shirts, T-shirts, pullovers and coats overlap on purpose, as they do in Fashion-MNIST: sleeves of
any length, buttons too faint to see; so do high sneakers and low boots. Not every picture can be
told right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.shapes import Array, Canvas, Number, cover, ellipse, limb, line_through, profile, ring

_PIXEL = 2 / 28  # width of a pixel of a 28 x 28 picture in garment space

Garment = tuple[Array, Array]
"""Share covered, in [0, 1], and brightness as a factor around 1; each (n, H, W) float32."""


def draw_garment(label: int, canvas: Canvas) -> Garment:
    """Draw one kind of garment, `label` as in FASHION_CLASSES, on every picture of `canvas`."""
    return _KINDS[label](canvas)


def _t_shirt(canvas: Canvas) -> Garment:
    length = canvas.draw(0.12, 0.5)
    body = _top(canvas, hem=canvas.draw(0.6, 0.85), sleeve=length, waist=canvas.draw(0.38, 0.5))
    tone = _neck_band(canvas)
    # A print on the chest.
    print_ = cover(ellipse(canvas, (0.0, canvas.draw(-0.3, 0.1)), (0.2, 0.22)), _PIXEL * 2)
    tone = tone + print_ * canvas.draw(-0.5, 0.4) * canvas.chance(0.3)
    return cover(body, _PIXEL), tone


def _trouser(canvas: Canvas) -> Garment:
    x, y = canvas.x, canvas.y
    waist, bottom = canvas.draw(0.22, 0.34), canvas.draw(0.8, 0.95)
    crotch = canvas.draw(-0.5, -0.15)
    spread, ankle = canvas.draw(0.16, 0.34), canvas.draw(0.08, 0.17)
    # One leg, mirrored: its middle runs outwards from the hip to the ankle.
    share = np.clip((y + 0.9) / (bottom + 0.9), 0, 1)
    middle = waist / 2 + (spread - waist / 2) * share
    leg = profile(y, np.abs(x) - middle, [(-0.9, waist / 2), (crotch, waist / 2), (bottom, ankle)])
    hips = profile(y, x, [(-0.9, waist), (crotch, waist + 0.04)])
    tone = 1 - cover(np.abs(y + 0.82) - 0.02, _PIXEL) * canvas.draw(0.0, 0.5)
    tone = tone - cover(np.abs(np.abs(x) - middle) - 0.01, _PIXEL) * canvas.draw(0.0, 0.25)
    return cover(np.minimum(leg, hips), _PIXEL), tone


def _pullover(canvas: Canvas) -> Garment:
    hem = canvas.draw(0.55, 0.8)
    body = _top(canvas, hem=hem, sleeve=canvas.draw(0.85, 1.25), waist=canvas.draw(0.4, 0.52))
    ribs = cover(hem - 0.14 - canvas.y, _PIXEL) * canvas.draw(-0.35, 0.15)
    return cover(body, _PIXEL), _neck_band(canvas) + ribs


def _dress(canvas: Canvas) -> Garment:
    waist, hem = canvas.draw(0.16, 0.28), canvas.draw(0.22, 0.52)
    at, bottom = canvas.draw(-0.3, 0.05), canvas.draw(0.75, 0.95)
    skirt = profile(
        canvas.y,
        canvas.x,
        [(-0.92, canvas.draw(0.14, 0.26)), (-0.6, waist + 0.06), (at, waist), (bottom, hem)],
    )
    sleeves = _sleeves(canvas, (waist, -0.78), canvas.draw(0.15, 0.9), canvas.draw(0.08, 0.12))
    body = np.where(canvas.chance(0.35), np.minimum(skirt, sleeves), skirt)
    neck = ellipse(canvas, (0.0, -0.95), (canvas.draw(0.08, 0.16), canvas.draw(0.06, 0.3)))
    belt = cover(np.abs(canvas.y - at) - 0.03, _PIXEL) * canvas.draw(-0.5, 0.3)
    return cover(np.maximum(body, -neck), _PIXEL), 1 + belt * canvas.chance(0.5)


def _coat(canvas: Canvas) -> Garment:
    hem = canvas.draw(0.7, 0.95)
    body = _top(canvas, hem=hem, sleeve=canvas.draw(0.9, 1.3), waist=canvas.draw(0.4, 0.55))
    opening = cover(np.abs(canvas.x) - canvas.draw(0.01, 0.04), _PIXEL)
    tone = 1 - opening * canvas.draw(0.1, 0.8)
    # Lapels: two dark lines that meet at the opening.
    lapel = np.abs(np.abs(canvas.x) - (canvas.draw(-0.35, 0.0) - canvas.y) * 0.45) - 0.015
    above = canvas.y < -0.1
    tone = tone - cover(lapel, _PIXEL) * above * canvas.draw(0.0, 0.6)
    pockets = profile(canvas.y - 0.3, np.abs(canvas.x) - 0.24, [(-0.03, 0.1), (0.03, 0.1)])
    tone = tone - cover(pockets, _PIXEL) * canvas.draw(0.2, 0.5) * canvas.chance(0.4)
    return cover(body, _PIXEL), tone


def _sandal(canvas: Canvas) -> Garment:
    x, y = canvas.x, canvas.y
    heel, thin = canvas.draw(0.0, 0.5), canvas.draw(0.03, 0.1)
    floor = canvas.draw(0.4, 0.6)
    rise = heel * np.clip((x + 0.1) / 0.8, 0, 1) ** 1.5
    sole = profile(x, y - (floor - rise), [(-0.85, thin * 0.6), (-0.4, thin), (0.8, thin)])
    stilt = profile(y, x - 0.72, [(floor - heel, 0.1), (floor + 0.001, canvas.draw(0.04, 0.1))])
    shape = np.minimum(sole, np.where(heel > 0.12, stilt, 9.0))
    for low, high, share in ((-0.6, -0.35, 1.0), (-0.2, 0.15, 0.6), (0.4, 0.65, 0.8)):
        # A strap is half an arch that stands on the sole.
        at, size = canvas.draw(low, high), (canvas.draw(0.13, 0.26), canvas.draw(0.2, 0.5))
        base = floor - heel * np.clip((at + 0.1) / 0.8, 0, 1) ** 1.5
        arch = np.maximum(ring(canvas, (at, base), size, canvas.draw(0.02, 0.05)), y - base)
        shape = np.minimum(shape, np.where(canvas.chance(share), arch, 9.0))
    return cover(shape, _PIXEL), np.ones_like(x)


def _shirt(canvas: Canvas) -> Garment:
    long, short = canvas.draw(0.8, 1.25), canvas.draw(0.2, 0.55)
    sleeve = np.where(canvas.chance(0.65), long, short)
    body = _top(canvas, hem=canvas.draw(0.6, 0.9), sleeve=sleeve, waist=canvas.draw(0.36, 0.5))
    seam = cover(np.abs(canvas.x) - 0.015, _PIXEL) * canvas.draw(0.0, 0.4)
    buttons = cover(np.hypot(canvas.x, (canvas.y % 0.24) - 0.12) - 0.03, _PIXEL)
    collar = np.abs(np.abs(canvas.x) - (canvas.y + 0.86) * 0.9) - 0.02
    tone = 1 - seam + buttons * canvas.draw(-0.5, 0.4)
    tone = tone - cover(collar, _PIXEL) * (canvas.y < -0.6) * canvas.draw(0.0, 0.6)
    return cover(body, _PIXEL), tone


def _sneaker(canvas: Canvas) -> Garment:
    height, floor = canvas.draw(0.3, 0.85), canvas.draw(0.35, 0.55)
    shape = _shoe(canvas, floor, instep=height * 0.75, ankle=height)
    sole = cover(floor - canvas.draw(0.1, 0.18) - canvas.y, _PIXEL)
    laces = np.abs(((canvas.x - canvas.y) % 0.16) - 0.08) - 0.025
    where = cover(np.hypot(canvas.x + 0.05, canvas.y - floor + height * 0.7) - 0.22, _PIXEL * 3)
    tone = 1 + sole * canvas.draw(-0.3, 0.6) + cover(laces, _PIXEL) * where * canvas.draw(-0.5, 0.5)
    swoosh = np.abs(canvas.y - floor + height * 0.4 + 0.4 * (canvas.x - 0.2)) - 0.04
    tone = tone + cover(swoosh, _PIXEL) * (np.abs(canvas.x - 0.2) < 0.3) * canvas.draw(-0.5, 0.4)
    return cover(shape, _PIXEL), tone


def _bag(canvas: Canvas) -> Garment:
    top, bottom = canvas.draw(-0.4, 0.05), canvas.draw(0.6, 0.85)
    wide, wider = canvas.draw(0.5, 0.8), canvas.draw(0.55, 0.88)
    box = profile(canvas.y, canvas.x, [(top, wide), (bottom, wider)])
    size = (wide * canvas.draw(0.4, 0.9), canvas.draw(0.2, 0.6))
    handle = ring(canvas, (0.0, top), size, canvas.draw(0.025, 0.07))
    handle = np.maximum(handle, canvas.y - top)
    shape = np.where(canvas.chance(0.85), np.minimum(box, handle), box)
    flap = top + (bottom - top) * canvas.draw(0.25, 0.6)
    line = cover(np.abs(canvas.y - flap) - 0.02, _PIXEL) * canvas.draw(0.0, 0.6)
    clasp = cover(ellipse(canvas, (0.0, flap), (0.08, 0.07)), _PIXEL) * canvas.draw(-0.5, 0.6)
    return cover(shape, _PIXEL), 1 - line + clasp * canvas.chance(0.6)


def _ankle_boot(canvas: Canvas) -> Garment:
    floor, height = canvas.draw(0.5, 0.8), canvas.draw(0.65, 1.5)
    heel = canvas.draw(0.0, 0.3)
    lift = heel * np.clip((canvas.x + 0.2) / 0.4, 0, 1)
    upper = _shoe(canvas, floor - lift, instep=canvas.draw(0.35, 0.5), ankle=height - lift)
    block = profile(canvas.y, canvas.x - 0.62, [(floor - heel - 0.05, 0.16), (floor + 0.01, 0.1)])
    sole = cover(floor - lift - canvas.draw(0.05, 0.12) - canvas.y, _PIXEL)
    zip_ = cover(np.abs(canvas.x - canvas.draw(0.3, 0.5)) - 0.02, _PIXEL) * (canvas.y < 0.2)
    tone = 1 + sole * canvas.draw(-0.5, 0.3) - zip_ * canvas.draw(0.0, 0.5) * canvas.chance(0.5)
    return cover(np.minimum(upper, block), _PIXEL), tone


def _top(canvas: Canvas, *, hem: Number, sleeve: Number, waist: Number) -> Array:
    """Draw what covers the upper body; `sleeve` is the length of the sleeves."""
    shoulder = waist * canvas.draw(0.85, 1.05)
    torso = profile(
        canvas.y,
        canvas.x,
        [(-0.86, shoulder * 0.45), (-0.7, shoulder), (0.0, waist * 0.95), (hem, waist)],
    )
    sleeves = _sleeves(canvas, (shoulder * 0.82, -0.6), sleeve, canvas.draw(0.12, 0.18))
    neck = ellipse(canvas, (0.0, -0.9), (canvas.draw(0.12, 0.2), canvas.draw(0.08, 0.24)))
    return np.maximum(np.minimum(torso, sleeves), -neck)


def _sleeves(
    canvas: Canvas, shoulder: tuple[Number, Number], length: Number, radius: Number
) -> Array:
    # Long sleeves hang down, short ones stand out.
    angle = canvas.draw(0.75, 1.0) + 0.45 * np.minimum(length, 1.0)
    mirrored = Canvas(x=np.abs(canvas.x), y=canvas.y, generator=canvas.generator)
    end = (shoulder[0] + np.cos(angle) * length, shoulder[1] + np.sin(angle) * length)
    return limb(mirrored, shoulder, end, radius, radius * canvas.draw(0.6, 0.9))


def _neck_band(canvas: Canvas) -> Array:
    band = ring(canvas, (0.0, -0.9), (0.2, 0.24), 0.03)
    return 1 + cover(band, _PIXEL) * canvas.draw(-0.5, 0.3)


def _shoe(canvas: Canvas, floor: Number, *, instep: Number, ankle: Number) -> Array:
    """Draw a shoe from the side, toe to the left: heights above `floor` at instep and ankle."""
    toe, opening = canvas.draw(0.14, 0.24), canvas.draw(0.1, 0.25)
    above = np.asarray(floor - canvas.y)
    height = line_through(
        canvas.x,
        [(-0.9, toe * 0.5), (-0.75, toe), (-0.35, toe + 0.06), (opening, instep)],
    )
    shaft = canvas.x > opening
    height = np.where(shaft, np.maximum(height, ankle), height)
    ends = np.maximum(-0.9 - canvas.x, canvas.x - canvas.draw(0.72, 0.85))
    return np.asarray(np.maximum(np.maximum(above - height, -above), ends))


_KINDS: tuple[Callable[[Canvas], Garment], ...] = (
    _t_shirt,
    _trouser,
    _pullover,
    _dress,
    _coat,
    _sandal,
    _shirt,
    _sneaker,
    _bag,
    _ankle_boot,
)
