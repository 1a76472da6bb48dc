"""Sums of float32 values that are exact, so that every order of adding gives the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

LIMBS = 4
"""Each sum is so many int64, of which number i counts multiples of 2**(32 i - 64)."""
_BELOW = 64
_BITS = 32
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
        values: (n, c) float32, without NaN.
    """
    mantissa, exponent = torch.frexp(values.clamp(-_LARGEST, _LARGEST))
    integer = (mantissa * 2**24).long()  # values = integer * 2**(exponent - 24)
    shift = exponent.long() + (_BELOW - 24)
    integer = integer >> (-shift).clamp(0, 63)
    shift = shift.clamp(min=0)
    moved = integer << (shift & (_BITS - 1))  # of less than 24 + 32 bits
    channel = torch.arange(len(sums), device=sums.device) * LIMBS
    index = (channel + (shift >> 5)).flatten()
    total = sums.flatten()
    total = total.index_add(0, index, (moved & (2**_BITS - 1)).flatten())
    total.index_add_(0, index + 1, (moved >> _BITS).flatten())
    return total.view_as(sums)


def total_of(sums: Tensor) -> Tensor:
    """Sums (c, LIMBS) as numbers (c,) float64, each rounded once."""
    totals = []
    for limbs in sums.tolist():
        integer = sum(limb << (_BITS * i) for i, limb in enumerate(limbs))
        totals.append(integer / 2**_BELOW)
    return torch.tensor(totals, dtype=torch.float64)
