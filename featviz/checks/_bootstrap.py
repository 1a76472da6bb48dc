"""Values of single exemplars, and their mean with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000
_TAILS = (0.025, 0.975)


class Value(NamedTuple):
    """What a measure gives for one exemplar, or for a pair of images of one unit.

    Attributes:
        rule: the rule, or whatever else made the signals.
        measure: what is measured.
        step: of a curve, where on it; empty for the number that stands for all.
        channel, image: what it belongs to.
        number: the value.
    """

    rule: str
    measure: str
    step: str
    channel: int
    image: int
    number: float


def interval(values: Sequence[Value], seed: int) -> tuple[float, float, float]:
    """The mean, and the bounds of its 95% interval by the bootstrap over units and images.

    Each draw takes as many units as there are, with replacement, and independently as many images;
    a value counts as often as its unit was drawn times its image.

    Source: Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 1(2), 2007.
    """
    numbers = np.array([value.number for value in values])
    draws = np.random.default_rng(seed)
    weights = _drawn([value.channel for value in values], draws)
    weights = weights * _drawn([value.image for value in values], draws)
    totals = weights.sum(axis=1)
    filled = totals > 0
    means = (weights @ numbers)[filled] / totals[filled]
    if not len(means):
        return float(numbers.mean()), float(numbers.min()), float(numbers.max())
    low, high = np.quantile(means, _TAILS)
    return float(numbers.mean()), float(low), float(high)


def _drawn(
    labels: list[int], draws: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How often the label of each value is among those drawn, (draws, values)."""
    distinct, index = np.unique(labels, return_inverse=True)
    n = len(distinct)
    counts = draws.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return counts[:, index].astype(np.float64)
