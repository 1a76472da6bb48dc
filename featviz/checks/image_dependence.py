"""Image dependence: whether a picture depends on the image."""

from __future__ import annotations

from itertools import combinations

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import cosine
from featviz.checks._signals import Signal, Target
from featviz.checks._subject import Subject
from featviz.geometry import Pixel, overlap
from featviz.units import Layer


def image_dependence(subject: Subject) -> list[Value]:
    """How alike the signals of one unit are in different images, laid upon each other at the unit.

    For an exemplar of unit u in image i, the mean over the unit's other exemplars j of

        cos(s(u, i), s(u, j))

    with both signals where their receptive fields, before they are clipped at the edges of the
    image, hold pixels of both images. Range: -1 to 1. Good: well below 1. At 1 the picture is the
    same in every image, so it shows the weights alone, as it does of a layer below the first
    rectifier. Pairs without signal are left out.

    Source: the counterpart of Mahendran & Vedaldi, *Salient deconvolutional networks*, ECCV 2016;
    and Nie, Zhang & Patel, *A theoretical explanation for perplexing behaviors of
    backpropagation-based visualizations*, ICML 2018.
    """
    values: list[Value] = []
    for name, signals in subject.own.items():
        for channel, indices in subject.by_unit().items():
            likenesses = _likenesses(subject, signals, indices)
            for i in indices:
                own = [likeness for pair, likeness in likenesses.items() if i in pair]
                if own:
                    mean = sum(own) / len(own)
                    image = subject.exemplars[i].image
                    values.append(Value(name, "image_dependence", "", channel, image, mean))
    return values


def _likenesses(
    subject: Subject, signals: list[Signal], indices: list[int]
) -> dict[tuple[int, int], float]:
    """Of each pair of exemplars of a unit that has one."""
    likenesses = {}
    for i, j in combinations(indices, 2):
        origins = [origin(subject.layer, subject.exemplars[index]) for index in (i, j)]
        likeness = aligned_cosine(signals[i], signals[j], origins[0], origins[1])
        if likeness is not None:
            likenesses[i, j] = likeness
    return likenesses


def origin(layer: Layer, target: Target) -> Pixel:
    """(y, x) of the top left corner of a target's receptive field before it is clipped."""
    if not layer.field.is_local:
        return 0, 0
    box = layer.field.box(target.y, target.x, clip=False)
    return box.top, box.left


def aligned_cosine(a: Signal, b: Signal, origin_a: Pixel, origin_b: Pixel) -> float | None:
    """The likeness of two signals where both are, with their origins laid upon each other."""
    in_a, in_b = overlap(a.box, origin_a, b.box, origin_b)
    if in_a.height < 1 or in_a.width < 1:
        return None
    return cosine(a.within(in_a), b.within(in_b))
