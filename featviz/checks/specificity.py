"""Specificity: whether a picture depends on the unit."""

from __future__ import annotations

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import cosine
from featviz.checks._signals import Target, in_chunks, seeded
from featviz.checks._subject import Subject

OTHERS = 5
"""Other units that an exemplar is compared with."""
_AT_ONCE = 8  # exemplars whose comparisons are held in memory


def specificity(subject: Subject) -> list[Value]:
    """How alike the signals of different units are at one position of one image.

    For an exemplar of unit u in image i at position p, and other living units v of its layer drawn at
    random, the mean over v of

        cos(s(u, i, p), s(v, i, p))

    of the signals, flattened. Range: -1 to 1. Good: near 0. At 1 the picture is the same for every
    unit, so it says nothing of this one. Pairs of which one has no signal are left out.

    Source: Mahendran & Vedaldi, *Salient deconvolutional networks*, ECCV 2016 (neuron
    selectivity).
    """
    values: list[Value] = []
    for chunk in in_chunks(range(len(subject.exemplars)), _AT_ONCE):
        values += _of_chunk(subject, list(chunk))
    return values


def _of_chunk(subject: Subject, chunk: list[int]) -> list[Value]:
    others: list[Target] = []
    owners: list[int] = []
    for i in chunk:
        for target in other_units(subject, subject.exemplars[i]):
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


def other_units(subject: Subject, target: Target) -> list[Target]:
    """Other living units at the position of an exemplar, drawn at random."""
    candidates = [channel for channel in subject.living if channel != target.channel]
    draws = seeded(subject.seed, subject.layer, "others", target)
    chosen = draws.sample(candidates, min(OTHERS, len(candidates)))
    return [target._replace(channel=channel) for channel in chosen]
