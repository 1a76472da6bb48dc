"""The synthetic images: the same bits everywhere, true labels, masks and parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from math import cos, pi, sin, tan

import pytest
import torch
from torch import Tensor

from featviz.data import CLASSES, SyntheticImages
from featviz.errors import UsageError

AREAS = {
    "disc": pi,
    "face": pi,
    "ring": pi * (1 - 0.55**2),
    "square": 4 * 0.82**2,
    "cross": 4 * 0.34 * 2 - 4 * 0.34**2,
    "triangle": 3 * 3**0.5 * 0.55**2,
    "star": 5 * 0.45**2 * tan(pi / 5) * (1 + tan(pi / 5) * tan(2 * pi / 5)),
    "crescent": 1.45,
}
"""Of each shape, of radius 1."""


def digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("seed", "index", "size", "label", "expected"),
    [
        (
            0,
            0,
            96,
            "striped blue square",
            "fc45770ae75abd2b9068157eed0d21415c43480adf66da268d3fdded48b07e45",
        ),
        (
            1,
            7,
            96,
            "dotted yellow face",
            "b15213b9532f12a6c067d2698f5274e1ea7cd55a1c5cebccb0472c4edde5c116",
        ),
        (
            1,
            1234,
            64,
            "striped red star",
            "826064a8a59199781fe9c41c6948c516db478d35a4b7a67f58c65bb25cb1b6ee",
        ),
    ],
)
def test_an_image_has_the_same_bytes_for_ever(
    seed: int, index: int, size: int, label: str, expected: str
) -> None:
    drawn = SyntheticImages(2000, seed=seed, size=size).sample(index)
    assert (CLASSES[drawn.label], digest(drawn.image)) == (label, expected)


def test_an_image_depends_on_its_seed_index_and_size_alone() -> None:
    small, large = SyntheticImages(10, seed=1), SyntheticImages(1000, seed=1)
    backwards = {i: digest(large.sample(i).image) for i in reversed(range(10))}
    assert backwards == {i: digest(small.sample(i).image) for i in range(10)}
    assert len(set(backwards.values())) == 10
    assert not set(backwards.values()) & {
        digest(SyntheticImages(10, seed=2).sample(i).image) for i in range(10)
    }


def test_drawing_leaves_the_global_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    SyntheticImages(2)[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_item_is_the_sample_in_unit_range() -> None:
    data = SyntheticImages(3)
    image, label = data[2]
    drawn = data.sample(2)
    assert (image.dtype, drawn.image.dtype, label) == (torch.float32, torch.uint8, drawn.label)
    assert torch.equal((image * 255).round().byte(), drawn.image)


def test_the_label_is_known_without_drawing() -> None:
    data = SyntheticImages(50, seed=4, size=32)
    for i in range(50):
        drawn = data.sample(i)
        assert data.key(i) == f"{CLASSES[drawn.label]}/4-32-{i:06d}"
        assert (
            CLASSES[drawn.label]
            == f"{drawn.factors['texture']} {drawn.factors['color']} {drawn.factors['shape']}"
        )


def test_every_class_occurs_about_equally_often_in_two_thousand() -> None:
    data = SyntheticImages(2000)
    counts = Counter(data.key(i).partition("/")[0] for i in range(len(data)))
    assert set(counts) == set(CLASSES)
    assert len(CLASSES) == 96
    assert (
        5 <= min(counts.values()) <= max(counts.values()) <= 42
    )  # 20.8 expected, 4.6 standard deviations either side


@pytest.mark.parametrize("size", [32, 96, 224])
def test_the_mask_has_the_area_that_shape_and_radius_say(size: int) -> None:
    data = SyntheticImages(200, seed=5, size=size)
    measured = set()
    number = {32: 40, 96: 100, 224: 40}[size]
    for i in range(number):
        drawn = data.sample(i)
        factors = {name: drawn.factors[name] for name in ("radius", "x", "y")}
        radius, x, y = (float(value) for value in factors.values())
        shape = str(drawn.factors["shape"])
        assert drawn.image.shape == (3, size, size)
        assert drawn.mask.shape == (size, size)
        assert 0.2 * size <= radius <= 0.36 * size
        area = int(drawn.mask.sum()) / radius**2
        assert 0 < area < 1.1 * AREAS[shape]
        if min(x, y, size - x, size - y) > 1.5 * radius:  # all of it is in the image
            assert area == pytest.approx(AREAS[shape], rel=0.15 if size == 32 else 0.04), shape
            measured.add(shape)
    assert len(measured) >= 3


def test_the_mask_lies_around_the_object_s_centre() -> None:
    data = SyntheticImages(300, seed=6)
    for i in range(60):
        drawn = data.sample(i)
        radius, x, y = (float(drawn.factors[name]) for name in ("radius", "x", "y"))
        rows, cols = drawn.mask.nonzero(as_tuple=True)
        far = ((cols + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2).sqrt()
        assert (
            far.max() < 1.45 * radius + 1.5
        )  # a star's and a square's corners reach beyond the radius


@pytest.mark.parametrize("size", [32, 96, 224])
def test_faces_alone_have_parts_and_these_lie_on_them(size: int) -> None:
    data = SyntheticImages(300, seed=7, size=size)
    faces = [i for i in range(300) if "face" in data.key(i)][:12]
    for i in faces:
        drawn = data.sample(i)
        assert set(drawn.parts) == {"left eye", "right eye", "nose"}
        radius, x, y = (float(drawn.factors[name]) for name in ("radius", "x", "y"))
        turn = 2 * pi * float(drawn.factors["angle"])
        for name, (u, v) in {
            "left eye": (-0.4, -0.22),
            "right eye": (0.4, -0.22),
            "nose": (0.0, 0.14),
        }.items():
            box = drawn.parts[name]
            assert 0 <= box.top <= box.bottom <= size
            assert 0 <= box.left <= box.right <= size
            cx, cy = (
                x + radius * (cos(turn) * u - sin(turn) * v),
                y + radius * (sin(turn) * u + cos(turn) * v),
            )
            if box.left > 0 and box.right < size and box.top > 0 and box.bottom < size:
                assert (box.left + box.right) / 2 == pytest.approx(cx, abs=1.5)
                assert (box.top + box.bottom) / 2 == pytest.approx(cy, abs=1.5)
                assert drawn.mask[box.region[-2:]].float().mean() > 0.9
    assert len(faces) == 12
    assert not any(data.sample(i).parts for i in range(40) if "face" not in data.key(i))


def test_an_eye_is_white_around_a_dark_pupil() -> None:
    data = SyntheticImages(300, seed=7, size=224)
    complete = 0
    faces = [i for i in range(300) if "face" in data.key(i)]
    for i in faces:
        drawn = data.sample(i)
        box = drawn.parts["left eye"]
        if box.left > 0 and box.right < 224 and box.top > 0 and box.bottom < 224:
            eye = drawn.image[:, box.top : box.bottom, box.left : box.right].float().mean(0)
            middle, height, width = (
                eye[box.height // 2 - 2 : box.height // 2 + 3],
                box.height,
                box.width,
            )
            assert middle[:, width // 2 - 2 : width // 2 + 3].mean() < 60
            assert (
                eye[int(height * 0.1) : int(height * 0.2), width // 2 - 2 : width // 2 + 3].mean()
                > 200
            )
            complete += 1
    assert complete > 10


@pytest.mark.parametrize(("n", "size"), [(0, 96), (-1, 96), (5, 31), (5, 1025)])
def test_bad_numbers_and_sizes_are_errors_that_give_them(n: int, size: int) -> None:
    with pytest.raises(UsageError, match=f"n={n}|size={size}"):
        SyntheticImages(n, size=size)


def test_an_index_beyond_the_set_is_an_error() -> None:
    data = SyntheticImages(3, size=32)
    for index in (3, -1):
        with pytest.raises(IndexError):
            data.sample(index)
    assert len([image for image, _ in data]) == 3  # iteration ends
