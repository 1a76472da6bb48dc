"""How much the projections of a layer depend on the unit and on the image (law 11)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan

from torch import Tensor

HIGH = 0.8
"""Above it, pictures are said not to tell units, or images, apart: most of their energy is common."""


@dataclass(frozen=True)
class Likeness:
    """The mean cosine similarity of projections that should differ; 1: they are the same picture.

    Attributes:
        units: of different units at one position of one image: 1 minus it is how specific the rule
            is. NaN where it was not measured.
        images: of one unit in different images, aligned at the unit; NaN likewise.
        unit_pairs, image_pairs: how many pairs these are the means of.
    """

    units: float = nan
    images: float = nan
    unit_pairs: int = 0
    image_pairs: int = 0

    @property
    def worst(self) -> float:
        """The larger of the two that are measured; NaN if none is."""
        return max(self.units, self.images) if not isnan(self.units) else self.images

    @classmethod
    def of(cls, units: Iterable[float], images: Iterable[float]) -> Likeness:
        """From the similarities of pairs; those that are NaN are left out."""
        of_units, of_images = _numbers(units), _numbers(images)
        return cls(_mean(of_units), _mean(of_images), len(of_units), len(of_images))

    def __add__(self, other: Likeness) -> Likeness:
        """Of all pairs of both."""
        units, unit_pairs = _pooled(self.units, self.unit_pairs, other.units, other.unit_pairs)
        images, image_pairs = _pooled(
            self.images, self.image_pairs, other.images, other.image_pairs
        )
        return Likeness(units, images, unit_pairs, image_pairs)


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine similarity of two signals of one shape, on any devices, in [-1, 1]; NaN where one is
    0."""
    x = a.flatten().double()
    y = b.flatten().to(x)
    norms = float(x.norm() * y.norm())
    if not norms > 0:
        return nan
    return max(-1.0, min(1.0, float(x @ y) / norms))


def remark(rule: str, likenesses: Mapping[str, Likeness]) -> str:
    """What a reader has to know of pictures under a rule; empty where they tell units and images
    apart, or where it was not measured.

    Example:
        >>> from featviz.records.likeness import Likeness, remark
        >>> remark("deconvnet", {"deconvnet": Likeness(0.97, 0.4, 8, 8), "lrp": Likeness(0.3, 0.1, 8, 8)})
        'These deconvnet pictures hardly tell one unit from another (cosine 0.97); lrp does (0.30).'
    """
    own = likenesses.get(rule)
    if own is None:
        return ""
    faults = []
    if own.units > HIGH:
        faults.append(f"one unit from another (cosine {own.units:.2f})")
    if own.images > HIGH:
        faults.append(f"one image from another (cosine {own.images:.2f})")
    if not faults:
        return ""
    text = f"These {rule} pictures hardly tell {' or '.join(faults)}"
    better = better_rule(rule, likenesses)
    if better is None:
        others = "; no other rule does better here" if len(likenesses) > 1 else ""
        return f"{text}{others}."
    return f"{text}; {better} does ({in_digits(likenesses[better].worst)})."


def in_digits(value: float) -> str:
    """Two digits of a likeness, without a sign where they are zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def better_rule(rule: str, likenesses: Mapping[str, Likeness]) -> str | None:
    """The rule that tells units and images apart best, if this one does not and that one does."""
    measured = {name: of for name, of in likenesses.items() if not isnan(of.worst)}
    if rule not in measured:
        return None
    best = min(measured, key=lambda name: measured[name].worst)
    return best if measured[best].worst <= HIGH < measured[rule].worst else None


def _numbers(values: Iterable[float]) -> list[float]:
    return [value for value in values if not isnan(value)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else nan


def _pooled(a: float, n: int, b: float, m: int) -> tuple[float, int]:
    if not n or not m:
        return (a, n) if n else (b, m)
    return (a * n + b * m) / (n + m), n + m
