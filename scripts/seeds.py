"""Trainings with several seeds: means, intervals, and what they settle."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import isfinite, nan, sqrt
from statistics import fmean, stdev

from shared import positive

T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95% of both sides, by degrees of freedom from 1 on; the last for more, which is on the safe
side."""

Values = Sequence[float]
Interval = tuple[float, float, float]
"""Mean, and the lower and the upper end of the 95% interval of the mean."""


def add_seeds(parser: argparse.ArgumentParser, default: int) -> None:
    """--seeds."""
    parser.add_argument(
        "--seeds",
        type=positive,
        default=default,
        metavar="N",
        help=f"seeds that each network is trained with, from --seed on (default: {default})",
    )


def seeds_of(args: argparse.Namespace) -> range:
    """Those that the arguments ask for."""
    return range(args.seed, args.seed + args.seeds)


def interval(values: Values) -> Interval:
    """The mean of some values and its 95% interval by Student's t; of fewer than two, ends that are nan."""
    if not values or not all(map(isfinite, values)):
        return nan, nan, nan
    mean = fmean(values)
    if len(values) < 2:
        return mean, nan, nan
    reach = T95[min(len(values) - 2, len(T95) - 1)] * stdev(values) / sqrt(len(values))
    return mean, mean - reach, mean + reach


def difference(values: Values, reference: Values) -> Interval:
    """By how much values are above those of the same seeds."""
    return interval([value - other for value, other in zip(values, reference, strict=True)])


def summarised(name: str, values: Values) -> dict[str, float]:
    """A column of the mean, and two of the ends of its interval, where there are several values."""
    mean, low, high = interval(values)
    if not isfinite(low):
        return {name: mean}
    return {name: mean, f"{name} low": low, f"{name} high": high}


def verdict(differences: Mapping[str, Interval]) -> dict[str, list[str]]:
    """The names of differences that are above 0 (``higher``) or below (``lower``) by all of their interval,
    and of the others (``open``)."""
    names: dict[str, list[str]] = {"higher": [], "lower": [], "open": []}
    for name, (_, low, high) in differences.items():
        kind = "open"
        if low > 0:
            kind = "higher"
        if high < 0:
            kind = "lower"
        names[kind].append(name)
    return names


def listed(names: Sequence[str]) -> str:
    """In words: ``none``, or all of them."""
    return "; ".join(names) or "none"
