"""Shapes, textures and the parts of faces: what covers a pixel, from its coordinates alone.

A shape is a signed distance in pixels to its outline, positive inside. Pixels are made with the
operations that IEEE 754 rounds exactly (+ - * / sqrt, comparisons)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featviz.geometry import Box

Plane = NDArray[np.floating[Any]]

TURN = 256
"""Angles are whole numbers of 1/256 turn; the cosines' table is far from any rounding tie."""
_COS = (np.round(np.cos(np.arange(TURN) * (2 * np.pi / TURN)) * 4096) / 4096).astype(np.float32)
_WHITE = np.full(3, 250, np.float32)
_BLACK = np.full(3, 12, np.float32)
_FEATURES = {
    "left eye": (-0.4, -0.22, 0.24),
    "right eye": (0.4, -0.22, 0.24),
    "nose": (0.0, 0.14, 0.16),
}
"""Where a face has them, and how far they reach, in radii of the face: (u, v, reach)."""


def coordinates(x: float, y: float, rows: slice, cols: slice) -> tuple[Plane, Plane]:
    """Coordinates of the pixels' centres around (x, y): u (1, w) to the right, v (h, 1) down."""
    u = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] + np.float32(0.5 - x)
    v = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    return u, v


def _cos_sin(angle: int) -> tuple[np.float32, np.float32]:
    """From a table: a library's cosine is not the same to the last bit everywhere."""
    return _COS[angle % TURN], _COS[(angle - TURN // 4) % TURN]


def turned(u: Plane, v: Plane, angle: int) -> tuple[Plane, Plane]:
    """Coordinates turned by ``angle``."""
    cos, sin = _cos_sin(angle)
    return cos * u + sin * v, cos * v - sin * u


def window_around(
    x: float, y: float, reach: float, angle: int, size: int
) -> tuple[tuple[slice, slice], Plane, Plane]:
    """The rows and columns within ``reach`` (and a little) of (x, y), with turned coordinates around
    that point.
    """
    margin = reach * 1.45 + 2
    rows = slice(max(0, int(y - margin)), max(1, min(size, int(y + margin) + 1)))
    cols = slice(max(0, int(x - margin)), max(1, min(size, int(x + margin) + 1)))
    return (rows, cols), *turned(*coordinates(x, y, rows, cols), angle)


def coverage_of(distance: Plane) -> Plane:
    """How much of each pixel a shape covers: a one pixel wide ramp over the signed distance to its
    edge.
    """
    return np.clip(distance + np.float32(0.5), 0, 1)


def mixed(under: Plane, over: Plane, coverage: Plane) -> Plane:
    """``over`` laid upon ``under``; each is one color (3,) or an image (3, h, w)."""
    under = _as_image(under)
    over = _as_image(over)
    return under + (over - under) * coverage


def _as_image(color: Plane) -> Plane:
    if color.ndim == 1:
        return color[:, None, None]
    return color


def wave(x: Plane) -> Plane:
    """A triangle wave of period 1 between -1 and 1, zero crossings at multiples of 1/2."""
    return 1 - np.float32(4) * np.abs(x - np.floor(x) - np.float32(0.5))


def texture_distance(name: str, a: Plane, b: Plane) -> Plane:
    """A signed distance in periods: positive where the pigment goes."""
    if name == "striped":
        return wave(a) / 4
    if name == "checked":
        return wave(a / 2) * wave(b / 2)
    da = a - np.floor(a) - np.float32(0.5)
    db = b - np.floor(b) - np.float32(0.5)
    return np.float32(0.34) - np.sqrt(da * da + db * db)


def shape_distance(shape: str, u: Plane, v: Plane, r: float) -> Plane:
    """Signed distance in pixels to the outline of a shape of radius r, positive inside."""
    r32 = np.float32(r)
    if shape == "square":
        return r32 * np.float32(0.82) - np.maximum(np.abs(u), np.abs(v))
    if shape == "cross":
        thin = r32 * np.float32(0.34)
        across = np.minimum(r32 - np.abs(u), thin - np.abs(v))
        down = np.minimum(thin - np.abs(u), r32 - np.abs(v))
        return np.maximum(across, down)
    if shape == "triangle":
        return np.minimum.reduce([r32 * np.float32(0.55) - side for side in _sides(u, v, 3)])
    if shape == "star":
        sides = np.stack([r32 * np.float32(0.45) - side for side in _sides(u, v, 5)])
        return np.partition(sides, 1, axis=0)[1]  # inside all sides but one: a pentagram
    centre = np.sqrt(u * u + v * v)
    if shape == "ring":
        return np.minimum(r32 - centre, centre - r32 * np.float32(0.55))
    if shape == "crescent":
        offset = u - r32 * np.float32(0.45)
        return np.minimum(r32 - centre, np.sqrt(offset * offset + v * v) - r32 * np.float32(0.8))
    return r32 - centre


def _sides(u: Plane, v: Plane, n: int) -> list[Plane]:
    """The coordinate across each of the n sides of a regular polygon."""
    return [turned(u, v, round(i * TURN / n))[1] for i in range(n)]


def with_features(
    paint: Plane, u: Plane, v: Plane, x: float, y: float, r: float, angle: int, size: int
) -> tuple[Plane, dict[str, Box]]:
    """Two eyes, a nose and a mouth over the paint of a face, and the boxes of eyes and nose."""
    parts = {}
    for name, (du, dv, reach) in _FEATURES.items():
        around_u = u - np.float32(du * r)
        around_v = v - np.float32(dv * r)
        if name == "nose":
            paint = _nose(paint, around_u, around_v, reach * r)
        else:
            paint = _eye(paint, around_u, around_v, reach * r)
        parts[name] = _part_box(x, y, du * r, dv * r, reach * r, angle, size)
    across = np.float32(0.34 * r) - np.abs(u)
    down = np.float32(0.07 * r) - np.abs(v - np.float32(0.52 * r))
    return mixed(paint, _BLACK, coverage_of(np.minimum(across, down))), parts


def _nose(paint: Plane, u: Plane, v: Plane, reach: float) -> Plane:
    """A dark triangle."""
    triangle = np.float32(reach * 0.7) - np.maximum.reduce(_sides(u, v, 3))
    return mixed(paint, _BLACK, coverage_of(triangle))


def _eye(paint: Plane, u: Plane, v: Plane, reach: float) -> Plane:
    """A white disc with a dark pupil."""
    far = np.sqrt(u * u + v * v)
    paint = mixed(paint, _WHITE, coverage_of(np.float32(reach) - far))
    return mixed(paint, _BLACK, coverage_of(np.float32(reach * 0.5) - far))


def _part_box(x: float, y: float, du: float, dv: float, reach: float, angle: int, size: int) -> Box:
    """The box of what reaches ``reach`` around a point that lies (du, dv) from (x, y), turned."""
    cos, sin = _cos_sin(angle)
    center_x = x + float(cos) * du - float(sin) * dv
    center_y = y + float(sin) * du + float(cos) * dv
    box = Box(
        int(center_y - reach),
        int(center_x - reach),
        int(center_y + reach + 1),
        int(center_x + reach + 1),
    )
    return box.clip(Box(0, 0, size, size))
