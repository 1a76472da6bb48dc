"""Specificity: whether a picture depends on the unit."""

from __future__ import annotations

from torch import Tensor

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import cosine
from featviz.checks._signals import Target, in_chunks, seeded
from featviz.checks._subject import Subject

OTHERS = 5
"""Other units that an exemplar is compared with."""
_AT_ONCE = 8  # exemplars whose comparisons are held in memory


def specificity(subject: Subject) -> list[Value]:
    """How alike the signals of different units are at one position of one image.

    For an exemplar of unit u in image i at position p, and other units v of its layer drawn at random
    from those that respond there above 0, the mean over v of

        cos(s(u, i, p), s(v, i, p))

    of the signals, flattened. Range: -1 to 1. Good: near 0. At 1 the picture is the same for every
    unit, so it says nothing of this one. Units that do not respond are left out: nobody draws them
    there, and behind a rectifier they have no signal. So are pairs of which one has none.

    Source: Mahendran & Vedaldi, *Salient deconvolutional networks*, ECCV 2016 (neuron
    selectivity).
    """
    values: list[Value] = []
    for chunk in in_chunks(range(len(subject.exemplars)), _AT_ONCE):
        values += _of_chunk(subject, list(chunk))
    return values


def _of_chunk(subject: Subject, chunk: list[int]) -> list[Value]:
    exemplars = [subject.exemplars[i] for i in chunk]
    images = [target.image for target in exemplars]
    maps = subject.reading.maps_of(images)
    others: list[Target] = []
    owners: list[int] = []
    for i, exemplar in zip(chunk, exemplars, strict=True):
        for target in other_units(subject, exemplar, maps[exemplar.image]):
            others.append(target)
            owners.append(i)
    if not others:
        return []
    values = []
    for name, signals in subject.signals(subject.model, others).items():
        own = subject.own[name]
        for i in chunk:
            compared = [s.values for s, owner in zip(signals, owners, strict=True) if owner == i]
            likenesses = [cosine(own[i].values, other) for other in compared]
            defined = [likeness for likeness in likenesses if likeness is not None]
            if defined:
                target = subject.exemplars[i]
                mean = sum(defined) / len(defined)
                values.append(Value(name, "specificity", "", target.channel, target.image, mean))
    return values


def other_units(subject: Subject, target: Target, maps: Tensor) -> list[Target]:
    """Other units that respond at the position of an exemplar, drawn at random; ``maps`` (c, h, w) are
    the layer's for its image."""
    responding = (maps[:, target.y, target.x] > 0).nonzero().flatten().tolist()
    candidates = [channel for channel in responding if channel != target.channel]
    draws = seeded(subject.seed, subject.layer, "others", target)
    chosen = draws.sample(candidates, min(OTHERS, len(candidates)))
    return [target._replace(channel=channel) for channel in chosen]
