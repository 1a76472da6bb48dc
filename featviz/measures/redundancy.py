"""Units that say nothing, and units that say the same."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from featviz.errors import UsageError, did_you_mean
from featviz.measures._values import Values, by_unit, rows_at_once

LIKENESSES = ("correlation", "cosine")


class Pair(NamedTuple):
    """Two units, the first the lower channel, and how alike they are."""

    first: int
    second: int
    likeness: float


def dead_units(values: Values) -> list[int]:
    """The channels that no image activates: none of their values is above zero.

    Args:
        values: responses (images, c) or maps (images, c, h, w).

    Raises:
        UsageError: values of another shape, or none.
        NumberError: values that are NaN.

    Example:
        >>> import torch
        >>> from featviz.measures import dead_units
        >>> dead_units(torch.tensor([[0.0, 1.0], [-2.0, 0.0]]))
        [0]
    """
    channels: list[int] = (by_unit(values).amax(dim=0) <= 0).nonzero().flatten().tolist()
    return channels


def duplicate_units(
    values: Values,
    threshold: float = 0.95,
    likeness: Literal["correlation", "cosine"] = "correlation",
) -> list[Pair]:
    """The pairs of units whose responses are alike over all images, and positions of maps.

    Args:
        values: responses (images, c) or maps (images, c, h, w), whose positions are samples.
        threshold: pairs at or above it are given, from -1 to 1.
        likeness: Pearson's ``correlation``, or the ``cosine`` of the angle, for which a constant
            offset matters. Units that do not vary, or are zero, are like none.

    Returns:
        The most alike first, then by channel.

    Raises:
        UsageError: values of another shape, a threshold that is out of range, or no such likeness.
        NumberError: values that are NaN.

    Source: RoyChowdhury, Sharma, Learned-Miller & Roy, Reducing duplicate filters in deep neural
    networks, NIPS workshop 2017 (cosines).

    Example:
        >>> import torch
        >>> from featviz.measures import duplicate_units
        >>> x = torch.randn(50, 2)
        >>> duplicate_units(torch.cat([x, 3 * x[:, :1] + 1], dim=1))[0][:2]
        (0, 2)
    """
    if not -1 <= threshold <= 1:
        raise UsageError(f"threshold={threshold}: give a number from -1 to 1", "threshold")
    if likeness not in LIKENESSES:
        nearest = did_you_mean(likeness, LIKENESSES)
        raise UsageError(
            f"likeness={likeness!r}: give 'correlation' or 'cosine'{nearest}", "likeness"
        )
    samples = by_unit(values)
    products = _products(samples, likeness == "correlation")
    norms = products.diagonal().sqrt()
    alike = products / (norms[:, None] * norms)
    pairs = []
    for first, second in (alike >= threshold).triu(1).nonzero().tolist():
        pairs.append(Pair(first, second, min(1.0, float(alike[first, second]))))
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def _products(samples: Tensor, is_centred: bool) -> Tensor:
    """The products (c, c) of all units, summed over samples (n, c), some at once."""
    step = rows_at_once(samples)
    mean = torch.zeros(samples.shape[1], dtype=torch.float64)
    if is_centred:
        for start in range(0, len(samples), step):
            mean += samples[start : start + step].double().sum(dim=0)
        mean /= len(samples)
    total = torch.zeros(samples.shape[1], samples.shape[1], dtype=torch.float64)
    for start in range(0, len(samples), step):
        own = samples[start : start + step].double() - mean
        total += own.T @ own
    return total
