"""How alike two maps of numbers are, and Gaussian smoothing."""

from __future__ import annotations

from math import isnan

import torch
from torch import Tensor

from featviz.records import likeness

_REACH = 3.5  # standard deviations, beyond which a Gaussian is taken as zero
_SSIM_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def cosine(a: Tensor, b: Tensor) -> float | None:
    """The cosine similarity of two tensors of one shape, flattened, in [-1, 1]; None where one is zero."""
    value = likeness.cosine(a, b)
    return None if isnan(value) else value


def spearman(a: Tensor, b: Tensor) -> float:
    """The correlation of the ranks of two tensors of one shape, equal values sharing the mean of their
    ranks; 0 where all values of one are equal, which orders nothing."""
    first = ranks(a.flatten())
    second = ranks(b.flatten())
    return cosine(first - first.mean(), second - second.mean()) or 0.0


def ranks(values: Tensor) -> Tensor:
    """The rank of each value from 1, equal ones sharing the mean of theirs."""
    distinct: tuple[Tensor, Tensor, Tensor] = torch.unique(
        values, return_inverse=True, return_counts=True
    )
    _, index, counts = distinct
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[index]


def ssim(a: Tensor, b: Tensor) -> float:
    """The structural similarity of two maps (..., h, w) with values in [0, 1]: the mean of

        (2 m n + C1) (2 cov + C2) / ((m^2 + n^2 + C1) (var_a + var_b + C2))

    over pixels, with means m and n, variances and covariance under a Gaussian window of 1.5 pixels
    and C1 = 0.01^2, C2 = 0.03^2. At the edges the window is what lies within the map.

    Source: Wang, Bovik, Sheikh & Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    return float(ssim_map(a, b).mean())


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """The structural similarity at each pixel, of the shape of the maps."""
    first = a.double()
    second = b.double()
    mean_a = smoothed(first, _SSIM_SIGMA)
    mean_b = smoothed(second, _SSIM_SIGMA)
    variance_a = smoothed(first * first, _SSIM_SIGMA) - mean_a**2
    variance_b = smoothed(second * second, _SSIM_SIGMA) - mean_b**2
    covariance = smoothed(first * second, _SSIM_SIGMA) - mean_a * mean_b
    above = (2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    below = (mean_a**2 + mean_b**2 + _SSIM_C1) * (variance_a + variance_b + _SSIM_C2)
    return above / below


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (..., h, w) under a Gaussian of so many pixels; at the edges its weights are those of the
    pixels that there are, so that a constant stays what it is."""
    rows = _window(maps.shape[-2], sigma).to(maps)
    columns = _window(maps.shape[-1], sigma).to(maps)
    return rows @ maps @ columns.T


def _window(length: int, sigma: float) -> Tensor:
    """The weights (length, length) of all pixels of an axis, at each of its pixels."""
    pixels = torch.arange(length, dtype=torch.float64)
    distance = (pixels[:, None] - pixels[None, :]).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights[distance > int(_REACH * sigma + 0.5)] = 0
    return weights / weights.sum(dim=1, keepdim=True)
