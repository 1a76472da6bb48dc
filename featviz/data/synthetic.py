"""Labelled images drawn in code: one textured, coloured shape on a varied ground, with its mask and
its factors.

The class of an image is the shape, the texture and the colour of its object together, so a network
has to recognise all three. Position, size, angle, texture period, the second colour, the ground, clutter
and noise are free.

Every image is a function of ``(seed, index, size)`` alone, to the last bit, on every platform:
random numbers are the raw stream of a Philox counter, and pixels are made with the operations that
IEEE 754 rounds exactly (+ - * / sqrt, comparisons)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from featviz.data._shapes import (
    TURN,
    Plane,
    coordinates,
    coverage_of,
    mixed,
    shape_distance,
    texture_distance,
    turned,
    wave,
    window_around,
    with_features,
)
from featviz.errors import UsageError
from featviz.geometry import Box

SHAPES = ("disc", "ring", "square", "cross", "triangle", "star", "crescent", "face")
TEXTURES = ("striped", "checked", "dotted")
COLORS = {
    "red": (212, 44, 40),
    "yellow": (226, 190, 40),
    "green": (44, 156, 64),
    "blue": (48, 84, 208),
}
CLASSES = tuple(
    f"{texture} {color} {shape}" for shape, texture, color in product(SHAPES, TEXTURES, COLORS)
)

_LUMA = np.array([77, 150, 29], np.float32) / np.float32(256)


@dataclass(frozen=True)
class Sample:
    """One synthetic image with everything that is known about it.

    Attributes:
        image: (3, size, size) uint8, RGB, 0 to 255.
        label: index into ``CLASSES``.
        mask: (size, size) bool, True on the object.
        parts: named boxes in pixels, of the parts that the object has (a face has ``left eye``,
            ``right eye``, ``nose``).
        factors: the variables that the image was drawn from: shape, texture, color, angle and texture_angle
            (turns, 0 to 1), period, radius, x, y (pixels).
    """

    image: Tensor
    label: int
    mask: Tensor
    parts: dict[str, Box]
    factors: dict[str, str | float]


class SyntheticImages(Dataset[tuple[Tensor, int]]):
    """``n`` labelled images drawn in code; item i is ``(image, label)``, image (3, size, size)
    float32 in [0, 1].

    Args:
        n: number of images.
        seed: images of two seeds are independent; the training set of the bundled network is seed
            0, its test set seed 1.
        size: side in pixels, 32 to 1024. Everything but the noise scales with it.

    Raises:
        UsageError: a size or a number that is out of range.

    Example:
        >>> from featviz.data import SyntheticImages
        >>> data = SyntheticImages(10, seed=1)
        >>> data[3][0].shape, data.classes[data[3][1]]
        (torch.Size([3, 96, 96]), 'striped yellow crescent')
    """

    classes = CLASSES

    def __init__(self, n: int = 2000, *, seed: int = 1, size: int = 96) -> None:
        if n < 1:
            raise UsageError(f"n={n}: a data set needs at least 1 image")
        if not 32 <= size <= 1024:
            raise UsageError(f"size={size}: synthetic images have a side of 32 to 1024 pixels")
        self.n = n
        self.seed = seed
        self.size = size

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = self.sample(index)
        return drawn.image.float() / 255, drawn.label

    def key(self, index: int) -> str:
        """The stable name of image ``index``: it says class, seed, size and number."""
        label = self.classes[_draw_label(_Draws(self.seed, index))]
        return f"{label}/{self.seed}-{self.size}-{index:06d}"

    def sample(self, index: int) -> Sample:
        """Image ``index`` with its mask, parts and factors."""
        if not 0 <= index < self.n:
            raise IndexError(f"image {index} of a set of {self.n}")
        return draw(self.seed, index, self.size)


class _Draws:
    """A stream of random numbers that is the same for (seed, index) everywhere and for ever."""

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, index], np.uint64))
        self._raw = iter(self._bits.random_raw(256).tolist())

    def below(self, n: int) -> int:
        return int(next(self._raw) >> 11) % n

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * (int(next(self._raw) >> 40) / (1 << 24))

    def bytes(self, *shape: int) -> NDArray[np.uint8]:
        n = int(np.prod(shape))
        words = np.asarray(self._bits.random_raw(-(-n // 8)), "<u8")  # 8 bytes each, rounded up
        return words.view(np.uint8)[:n].reshape(shape)


def _draw_label(draws: _Draws) -> int:
    """The label is the first thing drawn, so that it can be known without drawing the image."""
    return draws.below(len(CLASSES))


_KEY = re.compile(r"(?P<label>[^/]+)/(?P<seed>\d+)-(?P<size>\d+)-(?P<index>\d{6,})")


def sample_of(key: str) -> Sample | None:
    """The image that has this name in `SyntheticImages`; None where it is no such name.

    Example:
        >>> from featviz.data import SyntheticImages
        >>> from featviz.data.synthetic import sample_of
        >>> sample_of(SyntheticImages(10, seed=1).key(3)).factors["shape"]
        'crescent'
    """
    name = _KEY.fullmatch(key)
    if name is None or not 32 <= int(name["size"]) <= 1024:
        return None
    seed, index = int(name["seed"]), int(name["index"])
    if max(seed, index) >= 2**63 or CLASSES[_draw_label(_Draws(seed, index))] != name["label"]:
        return None
    return draw(seed, index, int(name["size"]))


def draw(seed: int, index: int, size: int = 96) -> Sample:
    """Draw image ``index`` of the set ``seed`` at ``size`` pixels a side."""
    draws = _Draws(seed, index)
    label = _draw_label(draws)
    texture, color, shape = CLASSES[label].split()
    canvas = _ground(draws, size)
    for _ in range(draws.below(4)):
        _clutter(canvas, draws)

    radius = draws.between(0.2, 0.36) * size
    x = draws.between(0.8 * radius, size - 0.8 * radius)
    y = draws.between(0.8 * radius, size - 0.8 * radius)
    angle = _angle(shape, draws)
    texture_angle = draws.below(TURN)
    period = draws.between(0.06, 0.14) * size
    pigment = _pigment(color, draws)
    second = _second_color(pigment, draws)

    window, u, v = window_around(x, y, radius, angle, size)
    distance = shape_distance(shape, u, v, radius)
    a, b = turned(u, v, texture_angle)
    blend = texture_distance(texture, a / period, b / period) * np.float32(period)
    paint = mixed(second, pigment, coverage_of(blend))
    parts: dict[str, Box] = {}
    if shape == "face":
        paint, parts = with_features(paint, u, v, x, y, radius, angle, size)
    coverage = coverage_of(distance)
    canvas[:, window[0], window[1]] = mixed(canvas[:, window[0], window[1]], paint, coverage)

    noise = draws.bytes(3, size, size).astype(np.float32) * np.float32(draws.between(0.0, 0.12))
    pixels = np.clip(np.floor(canvas + noise), 0, 255).astype(np.uint8)
    mask = np.zeros((size, size), bool)
    mask[window] = coverage >= 0.5
    factors: dict[str, str | float] = {
        "shape": shape,
        "texture": texture,
        "color": color,
        "angle": angle / TURN,
        "texture_angle": texture_angle / TURN,
        "period": period,
        "radius": radius,
        "x": x,
        "y": y,
    }
    return Sample(torch.from_numpy(pixels), label, torch.from_numpy(mask), parts, factors)


def _angle(shape: str, draws: _Draws) -> int:
    """Faces are drawn upright to within 1/10 of a turn, as people see them; all else at any angle."""
    if shape == "face":
        return (draws.below(52) - 26) % TURN
    return draws.below(TURN)


def _pigment(color: str, draws: _Draws) -> Plane:
    """A shade of a color, (3,)."""
    shade = [level + draws.between(-28, 28) for level in COLORS[color]]
    return np.clip(shade, 0, 255).astype(np.float32)


def _second_color(pigment: Plane, draws: _Draws) -> Plane:
    """White, near-black, or a grey as light as the pigment itself: then only colour tells the two
    apart.
    """
    red, green, blue = pigment * _LUMA
    levels = (245.0, 16.0, float(red + green + blue))
    return np.full(3, levels[draws.below(3)], np.float32)


def _ground(draws: _Draws, size: int) -> Plane:
    """(3, size, size): smooth blobs between two soft colours, half the time with a faint grating
    over them.
    """
    low = _soft_color(draws)
    high = _soft_color(draws)
    ground = mixed(low, high, _blobs(draws, size))
    if draws.below(2):
        u, _ = turned(*coordinates(0, 0, slice(0, size), slice(0, size)), draws.below(TURN))
        grating = wave(u / np.float32(draws.between(0.05, 0.25) * size))
        ground += grating * np.float32(draws.between(6, 30))
    return ground


def _soft_color(draws: _Draws) -> Plane:
    return np.array([draws.between(30, 225) for _ in range(3)], np.float32)


def _blobs(draws: _Draws, size: int) -> Plane:
    """(size, size) smooth values, 0 to 1: random ones on a coarse grid, and between them a cubic."""
    cells = 3 + draws.below(4)
    corners = draws.bytes(cells + 1, cells + 1).astype(np.float32) / np.float32(255)
    at = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    cell = np.minimum(at.astype(np.int64), cells - 1)
    step = at - cell.astype(np.float32)  # 0 to 1 within the cell
    step = step * step * (3 - 2 * step)
    rows = corners[cell] * (1 - step)[:, None] + corners[cell + 1] * step[:, None]
    return rows[:, cell] * (1 - step) + rows[:, cell + 1] * step


def _clutter(canvas: Plane, draws: _Draws) -> None:
    """A plain bar or a small plain disc, of any colour."""
    size = canvas.shape[-1]
    length = draws.between(0.06, 0.3) * size
    is_bar = bool(draws.below(2))
    thickness = length
    if is_bar:
        thickness = draws.between(0.01, 0.05) * size
    x = draws.between(0, size)
    y = draws.between(0, size)
    window, u, v = window_around(x, y, length, draws.below(TURN), size)
    if is_bar:
        distance = np.minimum(np.float32(length) - np.abs(u), np.float32(thickness) - np.abs(v))
    else:
        distance = np.float32(length / 3) - np.sqrt(u * u + v * v)
    ink = np.array([draws.between(0, 255) for _ in range(3)], np.float32)
    canvas[:, window[0], window[1]] = mixed(
        canvas[:, window[0], window[1]], ink, coverage_of(distance)
    )
