"""What lies under the square: values that can be worked out, and wrong ones named."""

import pytest
import torch
from laws import randn, same_bits

from featviz import Box, Preprocess
from featviz.errors import UsageError
from featviz.methods.fill import FILLS, check_boxes, filled

X = randn(3, 22, 19, dtype=torch.float64)


def test_gray_is_the_middle_of_what_the_preprocessing_was_given() -> None:
    assert not filled(X, "gray", (4, 4)).any()
    recipe = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    gray = filled(X, "gray", (4, 4), recipe)
    torch.testing.assert_close(recipe.denormalize(gray), torch.full_like(X, 0.5))


def test_mean_is_that_of_each_channel_and_of_each_image() -> None:
    assert same_bits(filled(X, "mean", (4, 4)), X.mean((1, 2), keepdim=True).expand_as(X))
    both = torch.stack([X, X + 1])
    means = filled(both, "mean", (4, 4))
    torch.testing.assert_close(means[1], means[0] + 1)


def test_values_broadcast() -> None:
    assert same_bits(filled(X, -1.5, (4, 4)), torch.full_like(X, -1.5))
    by_channel = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert filled(X, by_channel, (4, 4))[:, 3, 5].tolist() == [1, 2, 3]
    assert same_bits(filled(X, 2 * X, (4, 4)), 2 * X)


def test_blur_is_as_wide_as_the_window_along_each_axis() -> None:
    blurred = filled(X, "blur", (12, 12))
    assert 0 < float(blurred.std()) < 0.4 * float(X.std())
    rows = filled(X, "blur", (22, 1))  # wide along y, next to nothing along x
    assert float(rows.diff(dim=1).abs().mean()) < 0.2 * float(rows.diff(dim=2).abs().mean())


@pytest.mark.parametrize("fill", [*FILLS, 0.3, torch.ones(3, 1, 1, dtype=torch.float32)])
def test_shape_and_type_are_those_of_the_image(fill: object) -> None:
    cover = filled(X, fill, (4, 4))  # type: ignore[arg-type]
    assert cover.shape == X.shape
    assert cover.dtype == X.dtype


def test_bad_fills_are_named() -> None:
    with pytest.raises(UsageError, match=r"'grey'.*did you mean 'gray'"):
        filled(X, "grey", (4, 4))
    with pytest.raises(UsageError, match=r"\(4, 1, 1\).*\(3, 22, 19\)"):
        filled(X, torch.zeros(4, 1, 1), (4, 4))


def test_bad_boxes_are_named() -> None:
    good = Box(0, 0, 4, 4)
    check_boxes([good, Box(0, 0, 22, 19)], (22, 19), "eye")
    with pytest.raises(UsageError, match=r"eye, box 1: \(0, 0, 23, 4\).*22x19"):
        check_boxes([good, Box(0, 0, 23, 4)], (22, 19), "eye")
    with pytest.raises(UsageError, match=r"box 0: \(0, -1, 4, 4\)"):
        check_boxes([Box(0, -1, 4, 4)], (22, 19), "eye")
    with pytest.raises(UsageError, match=r"box 0: \(4, 4, 4, 8\) holds no pixel"):
        check_boxes([Box(4, 4, 4, 8)], (22, 19), "eye")
