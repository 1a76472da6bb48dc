"""Boxes, fields and crops: whole numbers, so every law can be tried on thousands of cases."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
import torch

from featviz.fields.crop import crop_for
from featviz.geometry import Box, ReceptiveField


def pixels(box: Box) -> set[tuple[int, int]]:
    result = set()
    for y in range(box.top, box.bottom):
        result |= {(y, x) for x in range(box.left, box.right)}
    return result


def field(size: int, stride: int, padding: int, n: int, kind: Any = "exact") -> ReceptiveField:
    """The same along both axes of an image of n x n."""
    extent = Box(0, 0, n, n)
    return ReceptiveField((size, size), (stride, stride), (padding, padding), extent, kind)


# --- boxes


def test_box() -> None:
    box = Box(1, 2, 4, 8)
    assert (box.height, box.width) == (3, 6)
    image = torch.arange(200).view(2, 10, 10)
    assert torch.equal(image[box.region], image[:, 1:4, 2:8])
    assert pixels(box.shifted(-1, 3)) == {(y - 1, x + 3) for y, x in pixels(box)}


def random_box(dice: random.Random) -> Box:
    top, bottom = sorted(dice.sample(range(-6, 12), 2))
    left, right = sorted(dice.sample(range(-6, 12), 2))
    return Box(top, left, bottom, right)


def test_clip_is_the_intersection_of_pixels() -> None:
    dice = random.Random(0)
    image = Box(0, 1, 6, 5)
    for _ in range(2000):
        box = random_box(dice)
        clipped = box.clip(image)
        assert pixels(clipped) == pixels(box) & pixels(image)
        assert clipped.height >= 0
        assert clipped.width >= 0


# --- fields


def test_field_box() -> None:
    dice = random.Random(1)
    for _ in range(500):
        size, stride = dice.randint(1, 9), dice.randint(1, 5)
        padding, i = dice.randint(-3, 6), dice.randint(0, 9)
        first = i * stride - padding
        expected = list(range(first, first + size))
        receptive_field = field(size, stride, padding, 20)
        box = receptive_field.box(i, i, clip=False)
        assert list(range(box.top, box.bottom)) == expected
        clipped = receptive_field.box(i, i)
        assert list(range(clipped.left, clipped.right)) == [p for p in expected if 0 <= p < 20]


def test_field_box_with_fractions_holds_whole_pixels_only() -> None:
    half = Fraction(1, 2)
    receptive_field = ReceptiveField((3, 3), (half, half), (half, half), Box(0, 0, 9, 9), "bound")
    assert receptive_field.box(4, 5) == Box(2, 2, 4, 5)  # 1.5 to 4.5 and 2 to 5
    assert str(receptive_field) == "3/1/2/1/2"


def test_axes_are_apart() -> None:
    apart = ReceptiveField((3, 5), (1, 4), (0, 2), Box(0, 0, 50, 50))
    assert apart.box(2, 3) == Box(2, 10, 5, 15)
    assert str(apart) == "3x5/1x4/0x2"


def test_global_field_is_the_extent() -> None:
    full = ReceptiveField((7, 9), (0, 0), (0, 0), Box(0, 0, 7, 9), "global")
    assert full.box(3, 4) == full.box(0, 0, clip=False) == Box(0, 0, 7, 9)
    assert str(full) == "full image"
    assert crop_for(full, 3, 4, (7, 9)) is None


# --- crops


@pytest.mark.parametrize("seed", range(200))
def test_crop(seed: int) -> None:
    """Contains the field, begins at a multiple of the stride, reaches the edges that the field
    reaches, and has one length wherever it does not reach the far edge.
    """
    dice = random.Random(seed)
    size, stride, n = dice.randint(1, 40), dice.randint(1, 9), dice.randint(41, 150)
    padding = dice.randint(-2, size // 2)
    positions = (n + 2 * padding - size) // stride + 1
    receptive_field = field(size, stride, padding, n)
    lengths = set()
    for i in range(positions):
        crop = crop_for(receptive_field, i, 0, (n, n))
        if crop is None:
            continue
        rows = crop.box
        sees = receptive_field.box(i, i, clip=False)
        in_image = sees.clip(receptive_field.extent)
        assert 0 <= rows.top <= in_image.top
        assert in_image.bottom <= rows.bottom <= n
        assert rows.top % stride == 0
        assert sees.top >= 0 or rows.top == 0
        assert sees.bottom <= n or rows.bottom == n
        # the same window, counted from the edge of the crop
        assert crop.position[0] * stride + rows.top == i * stride
        if rows.bottom < n:
            lengths.add(rows.height)
    assert len(lengths) <= 1


def test_a_crop_is_smaller_than_the_image_where_it_can_be() -> None:
    crop = crop_for(field(11, 4, 5, 224), 20, 30, (224, 224))
    assert crop is not None
    assert max(crop.box.bottom, crop.box.right) < 224
    assert crop_for(field(300, 4, 150, 224), 20, 30, (224, 224)) is None


def test_a_field_in_fractions_has_no_crop() -> None:
    half = Fraction(1, 2)
    receptive_field = ReceptiveField((3, 3), (half, half), (1, 1), Box(0, 0, 99, 99), "bound")
    assert crop_for(receptive_field, 9, 9, (99, 99)) is None


def test_a_resampled_field_has_no_crop() -> None:
    receptive_field = ReceptiveField((3, 3), (2, 2), (1, 1), Box(0, 0, 99, 99), "exact", True)
    assert crop_for(receptive_field, 9, 9, (99, 99)) is None
