"""Boxes, fields and cuts: whole numbers, so every law can be tried on thousands of cases."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch

from featviz.fields.crop import cut
from featviz.geometry import Box, ReceptiveField


def pixels(box: Box) -> set[tuple[int, int]]:
    return {(y, x) for y in range(box.top, box.bottom) for x in range(box.left, box.right)}


def field(size: int, stride: int, padding: int, n: int, kind: str = "exact") -> ReceptiveField:
    return ReceptiveField((size,) * 2, (stride,) * 2, (padding,) * 2, Box(0, 0, n, n), kind)  # type: ignore[arg-type]


def test_box() -> None:
    box = Box(1, 2, 4, 8)
    assert (box.height, box.width) == (3, 6)
    image = torch.arange(200).view(2, 10, 10)
    assert torch.equal(image[box.region], image[:, 1:4, 2:8])


def test_clip_is_the_intersection_of_pixels() -> None:
    dice = random.Random(0)
    for _ in range(2000):
        tops, lefts = (sorted(dice.sample(range(-6, 12), 2)) for _ in range(2))
        box, image = Box(tops[0], lefts[0], tops[1], lefts[1]), Box(0, 1, 6, 5)
        clipped = box.clip(image)
        assert pixels(clipped) == pixels(box) & pixels(image)
        assert clipped.height >= 0
        assert clipped.width >= 0


def test_field_box() -> None:
    dice = random.Random(1)
    for _ in range(500):
        size, stride, padding, i = (
            dice.randint(1, 9),
            dice.randint(1, 5),
            dice.randint(-3, 6),
            dice.randint(0, 9),
        )
        seen = [
            p for p in range(-100, 100) if i * stride - padding <= p < i * stride - padding + size
        ]
        box = field(size, stride, padding, 20).box(i, i, clip=False)
        assert list(range(box.top, box.bottom)) == seen
        inside = field(size, stride, padding, 20).box(i, i)
        assert list(range(inside.left, inside.right)) == [p for p in seen if 0 <= p < 20]


def test_field_box_with_fractions_holds_whole_pixels_only() -> None:
    half = ReceptiveField(
        (3, 3), (Fraction(1, 2),) * 2, (Fraction(1, 2),) * 2, Box(0, 0, 9, 9), "bound"
    )
    assert half.box(4, 5) == Box(2, 2, 4, 5)  # 1.5 to 4.5 and 2 to 5


def test_axes_are_apart() -> None:
    apart = ReceptiveField((3, 5), (1, 4), (0, 2), Box(0, 0, 50, 50))
    assert apart.box(2, 3) == Box(2, 10, 5, 15)
    assert str(apart) == "3x5/1x4/0x2"


def test_global_field_is_the_extent() -> None:
    whole = ReceptiveField((7, 9), (0, 0), (0, 0), Box(0, 0, 7, 9), "global")
    assert whole.box(3, 4) == whole.box(0, 0, clip=False) == Box(0, 0, 7, 9)
    assert str(whole) == "whole image"
    assert cut(whole, 3, 4, (7, 9)) is None


@pytest.mark.parametrize("seed", range(200))
def test_cut(seed: int) -> None:
    """Contains the field, begins at a multiple of the stride, reaches the edges that the field
    reaches, has one length inside.
    """
    dice = random.Random(seed)
    size, stride, n = dice.randint(1, 40), dice.randint(1, 9), dice.randint(41, 150)
    padding = dice.randint(-2, size // 2)
    positions = (n + 2 * padding - size) // stride + 1
    lengths = set()
    for i in range(positions):
        here = field(size, stride, padding, n)
        seen, found = here.box(i, i, clip=False), cut(here, i, 0, (n, n))
        if found is None:
            continue
        rows, inside = found.box, seen.clip(here.extent)
        assert 0 <= rows.top <= inside.top
        assert inside.bottom <= rows.bottom <= n
        assert rows.top % stride == 0
        assert seen.top >= 0 or rows.top == 0
        assert seen.bottom <= n or rows.bottom == n
        assert (
            found.at[0] * stride + rows.top == i * stride
        )  # the same window, counted from the cut's edge
        if rows.bottom < n:
            lengths.add(rows.height)
    assert len(lengths) <= 1


def test_cut_is_smaller_than_the_image_where_it_can_be() -> None:
    here = field(11, 4, 5, 224)
    assert cut(here, 20, 30, (224, 224)) is not None
    assert max(cut(here, 20, 30, (224, 224)).box[2:]) < 224  # type: ignore[union-attr]
    assert cut(field(300, 4, 150, 224), 20, 30, (224, 224)) is None


def test_cut_has_no_place_for_fractions() -> None:
    half = ReceptiveField((3, 3), (Fraction(1, 2),) * 2, (1, 1), Box(0, 0, 99, 99), "bound")
    assert cut(half, 9, 9, (99, 99)) is None
