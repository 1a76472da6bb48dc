"""Convergence: whether a rule forgets where it started, on the way to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import cosine
from featviz.checks._networks import modules_below
from featviz.checks._signals import Target, generator, in_chunks
from featviz.checks._subject import Subject
from featviz.fields.anatomy import anatomy
from featviz.fields.maps import as_maps
from featviz.methods._forward_pass import Passed, forward_pass
from featviz.rules import RULES, any_relevance, backward_rule, picture_of
from featviz.units import Layer

IMAGES = 1
"""Exemplars of each unit."""


def convergence(subject: Subject) -> list[Value]:
    """How alike two random signals become while a rule carries them back.

    At an exemplar's position two signals a and b over the channels of the layer are drawn from N(0,
    1), and carried back under the rule through the same forward pass. At each layer with weights on
    the way, and at the image,

        cos(r(a), r(b))

    of what has arrived there, flattened. Range: -1 to 1. Good: near 0 at the image. At 1 whatever
    the signal starts as, the same arrives: the picture cannot depend on the unit. Layers where
    nothing arrives are left out, and so is whatever makes signals and is no backward rule.

    Source: Sixt, Granz & Landgraf, *When explanations lie*, ICML 2020 (cosine
    similarity convergence).
    """
    rules = [name for name in subject.names if name in RULES]
    targets = [subject.exemplars[i] for i in subject.strongest(IMAGES)]
    way = layers_on_the_way(subject)
    values: list[Value] = []
    for some in in_chunks(targets, subject.batch_size):
        values += _of_batch(subject, some, way, rules)
    return values


def layers_on_the_way(subject: Subject) -> list[Layer]:
    """The layers with weights below the subject's own, from the top."""
    image = subject.image_of(subject.exemplars[0])
    channels, height, width = image.shape
    net = anatomy(subject.model, (channels, height, width), only=[], forward=subject.forward)
    below = set(modules_below(subject.model, subject.layer, image, subject.forward))
    layers = list(net.values())
    names = [layer.name for layer in layers]
    earlier = layers[: names.index(subject.layer.name)]
    return [layer for layer in reversed(earlier) if layer.module in below]


def _of_batch(
    subject: Subject, targets: Sequence[Target], way: list[Layer], rules: list[str]
) -> list[Value]:
    """All of one forward pass."""
    images = torch.stack([subject.image_of(target) for target in targets])
    layers = [*way, subject.layer]
    passed = forward_pass(
        subject.model,
        layers,
        images,
        parameters=any_relevance(rules),
        forward=subject.forward,
    )
    starts = [random_start(subject, passed, targets, draw) for draw in ("first", "second")]
    output = passed.values[subject.layer.name]
    stations = {layer.name: passed.values[layer.name] for layer in way} | {"image": passed.x}
    values: list[Value] = []
    for rule in rules:
        with backward_rule(rule, output, passed.x, copies=passed.copies):
            arrived = [
                torch.autograd.grad(
                    output, list(stations.values()), start, retain_graph=True, allow_unused=True
                )
                for start in starts
            ]
        for (step, station), first, second in zip(stations.items(), *arrived, strict=True):
            if first is not None and second is not None:
                pictures = [picture_of(rule, signal, station) for signal in (first, second)]
                values += _likenesses(rule, step, targets, *pictures)
    return values


def random_start(subject: Subject, passed: Passed, targets: Sequence[Target], draw: str) -> Tensor:
    """A signal at the layer, N(0, 1) over the channels at each target's position."""
    start = torch.zeros_like(passed.values[subject.layer.name])
    maps = as_maps(subject.layer, start)  # a view, written to
    for n, target in enumerate(targets):
        draws = generator(subject.seed, subject.layer, "convergence", target, draw)
        maps[n, :, target.y, target.x] = torch.randn(
            maps.shape[1], generator=draws, dtype=torch.float32
        ).to(maps)
    return start


def _likenesses(
    rule: str, step: str, targets: Sequence[Target], first: Tensor, second: Tensor
) -> list[Value]:
    values = []
    for n, target in enumerate(targets):
        likeness = cosine(first[n], second[n])
        if likeness is None:
            continue
        values.append(Value(rule, "convergence", step, target.channel, target.image, likeness))
        if step == "image":
            values.append(Value(rule, "convergence", "", target.channel, target.image, likeness))
    return values
