"""Sums of float32 values that are exact, so that every order of adding gives the same bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LIMBS = 4
"""Each sum is so many int64, of which number i counts multiples of 2**(32 i - 64)."""
_BELOW = 64
_BITS = 32
_UNITS = np.array([1 << (_BITS * i) for i in range(LIMBS)], dtype=object)
"""What each limb counts, in multiples of 2**-64."""
_LARGEST = float(2**54)
"""Larger magnitudes, and infinite ones, are counted as this."""


def empty_sums(channels: int) -> Tensor:
    """Zero, (c, LIMBS) int64."""
    return torch.zeros(channels, LIMBS, dtype=torch.int64)


def added(sums: Tensor, values: Tensor) -> Tensor:
    """Sums and the values of a batch.

    Exact but for what lies below 2**-64, which is rounded down, and for magnitudes above 2**54. No
    sum of less than 2**31 values overflows.

    Args:
        sums: (c, LIMBS) int64.
        values: (n, c) float32, without NaN, of less than 2**21 images.
    """
    # of 32 bits at most, so that a float64 holds the sum of 2**21 of them
    limbs = [limb.sum(dim=0, dtype=torch.float64) for limb in _limbs(values)]
    return sums + torch.stack(limbs, dim=1).long()


def sums_by(groups: Tensor, n: int, values: Tensor) -> Tensor:
    """The sums of the values of each of n groups, (n, c, LIMBS) int64, exact as those of `added`.

    Args:
        groups: (any,) int64, the group of each row of ``values``, on their device.
        n: of groups.
        values: (any, c) float32, as of `added`.
    """
    limbs = []
    for limb in _limbs(values):
        empty = limb.new_zeros(n, limb.shape[1], dtype=torch.float64)
        limbs.append(empty.index_add_(0, groups, limb.double()))
    return torch.stack(limbs, dim=2).long()


def _limbs(values: Tensor) -> list[Tensor]:
    """Values (n, c) float32 as multiples of the units of the LIMBS, each (n, c), the lowest first."""
    rest = values.clamp(-_LARGEST, _LARGEST)
    limbs = []
    for i in range(LIMBS - 1, -1, -1):
        unit = 2.0 ** (_BITS * i - _BELOW)
        # what is left of a float32, and the multiple of a power of two in it, are float32 too
        limbs.append((rest / unit).trunc_() if i else (rest / unit).floor_())
        rest = rest.sub_(limbs[-1], alpha=unit)
    return limbs[::-1]


def total_of(sums: Tensor) -> Tensor:
    """Sums (c, LIMBS) as numbers (c,) float64, each rounded once."""
    # integers of Python's, which have any number of digits
    integers = sums.cpu().numpy().astype(object) @ _UNITS
    return torch.from_numpy((integers / 2**_BELOW).astype(np.float64))
