"""What becomes of activation maps (n, c, h, w), by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from featviz.errors import UsageError, did_you_mean
from featviz.names import QUANTILE
from featviz.records.forward_fingerprint import function_fingerprint

Reduction = str | Callable[[Tensor], Tensor]
"""The name of a reduction, or a function of maps."""
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "mean": lambda maps: maps.mean(dim=(2, 3)),
    "sum": lambda maps: _wide(maps).sum(dim=(2, 3)),
    "l2": lambda maps: _wide(maps).square().sum(dim=(2, 3)).sqrt(),
    "map": lambda maps: maps,
}


def _wide(maps: Tensor) -> Tensor:
    """Maps in single precision, at least: a sum of squares of float16 is soon infinite, and its root is not."""
    is_narrow = maps.is_floating_point() and maps.dtype.itemsize < torch.float32.itemsize
    return maps.float() if is_narrow else maps


def reduction_of(reduce: Reduction, argument: str = "reduce") -> Callable[[Tensor], Tensor]:
    """A function of maps (n, c, h, w).

    Args:
        reduce: a name, or the function itself.
        argument: what it is called where it is given, for messages.

    Raises:
        UsageError: there is no such reduction.
    """
    if callable(reduce):
        return reduce
    if reduce in REDUCTIONS:
        return REDUCTIONS[reduce]
    if reduce.startswith(QUANTILE):
        return _quantile_of(reduce, argument)
    allowed = ", ".join(map(repr, [*REDUCTIONS, f"{QUANTILE}0.99"]))
    nearest = did_you_mean(reduce, REDUCTIONS)
    raise UsageError(f"{argument}={reduce!r}: give {allowed}, or a function{nearest}", argument)


def name_of(reduce: Reduction) -> str:
    """What a record calls a reduction: a function by its name and a hash of what it does."""
    if isinstance(reduce, str):
        return reduce
    return f"function {function_fingerprint(reduce)}"


def _quantile_of(reduce: str, argument: str) -> Callable[[Tensor], Tensor]:
    text = reduce.removeprefix(QUANTILE)
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UsageError(
            f"{argument}={reduce!r}: give a number from 0 to 1, such as {QUANTILE}0.99", argument
        )
    exact = Fraction(str(share))  # 0.55 * 100 is more than 55
    return lambda maps: _quantile(maps, exact)


def _quantile(maps: Tensor, share: Fraction) -> Tensor:
    """The smallest value of each map that has this share of the others below or at it, (n, c): one
    that a position has, and no mean of two."""
    values = maps.flatten(2)
    rank = math.ceil(share * (values.shape[2] - 1))
    return values.kthvalue(rank + 1, dim=2).values
