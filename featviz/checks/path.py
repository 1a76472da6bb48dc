"""Path: whether an image that was made to drive a unit takes the way of natural ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import ranks
from featviz.checks._signals import in_chunks
from featviz.checks._subject import Subject
from featviz.checks.convergence import layers_on_the_way
from featviz.checks.localisation import middles
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.geometry import Pixel
from featviz.hooks import evaluating, read
from featviz.methods._inputs import shape_of
from featviz.methods.maximize import maximize, unreported
from featviz.units import Layer, Unit

RULE = "maximize"
"""What stands for the rule, of which there is none."""
Means = dict[str, Tensor]
"""By layer the mean of each channel, (c,)."""


def path(subject: Subject, steps: int) -> list[Value]:
    """How alike the activations are, layer by layer, of an image that was made to drive a unit and of
    the unit's exemplars.

    For an image x let a(x) be the means of the channels of a layer over the positions whose receptive
    fields have their middle in that of the unit, m the image of `featviz.maximize`, and e and e' exemplars
    of the unit in different images. With f those of other units, at each layer with weights up to
    the unit's own,

        path        rho(a(m), a(e))
        path_same   rho(a(e'), a(e)), the mean over e'
        path_other  rho(a(f), a(e)), the mean over f

    with rho the rank correlation over channels; what stands for all is the mean over layers. Range: -1 to
    1. Good: near path_same. Near path_other, or below, the image goes another way through the
    network than images that drive the unit, and drives it by other means.

    Source: Geirhos et al., *Don't trust your eyes: on the (un)reliability of feature visualizations*,
    arXiv 2306.04719, section 3, with channels of one field in the place of full layers.

    Args:
        subject: units and exemplars.
        steps: of gradient ascent.
    """
    way = [*reversed(layers_on_the_way(subject)), subject.layer]
    names = [layer.name for layer in way]
    size = shape_of(subject.image_of(subject.exemplars[0])[None])
    net = anatomy(subject.model, size, only=names, forward=subject.forward)
    layers = [net[name] for name in names]
    made = _of_made(subject, layers, steps, size)
    if not made:
        return []
    natural = _of_exemplars(subject, layers)
    by_layer = [_numbers(subject, made, natural, name) for name in names]
    values: list[Value] = []
    for measure, i in by_layer[0]:
        target = subject.exemplars[i]
        where = (target.channel, target.image)
        curve = [numbers[measure, i] for numbers in by_layer]
        values.append(Value(RULE, measure, "", *where, fmean(curve)))
        for name, number in zip(names, curve, strict=True):
            values.append(Value(RULE, measure, name, *where, number))
    return values


def _numbers(
    subject: Subject, made: Mapping[int, Means], natural: Sequence[Means], name: str
) -> dict[tuple[str, int], float]:
    """The three likenesses at a layer, by measure and exemplar."""
    images = _ranked([means[name] for means in natural])
    among = images @ images.T
    numbers = {}
    for channel, means in made.items():
        own = _ranked([means[name]]) @ images.T
        for i in subject.by_unit()[channel]:
            numbers["path", i] = float(own[0, i])
            for measure, others in _others(subject, i).items():
                if others:
                    numbers[measure, i] = float(among[i, others].mean())
    return numbers


def _others(subject: Subject, i: int) -> dict[str, list[int]]:
    """The exemplars in other images: those of the same unit, and those of others."""
    target = subject.exemplars[i]
    others: dict[str, list[int]] = {"path_same": [], "path_other": []}
    for j, other in enumerate(subject.exemplars):
        if other.image != target.image:
            is_same = other.channel == target.channel
            others["path_same" if is_same else "path_other"].append(j)
    return others


def _ranked(means: Sequence[Tensor]) -> Tensor:
    """Ranks of channels about their middle, each row of length 1: products are rank correlations. A row
    whose values are all equal is 0."""
    rows = torch.stack([ranks(own) for own in means])
    return torch.nn.functional.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)


def _of_exemplars(subject: Subject, layers: Sequence[Layer]) -> list[Means]:
    """What the layers give for each exemplar, at its position."""
    result: list[Means] = []
    for some in in_chunks(subject.exemplars, subject.batch_size):
        batch = torch.stack([subject.image_of(target) for target in some])
        result += _means(subject, layers, batch, [(target.y, target.x) for target in some])
    return result


def _of_made(
    subject: Subject, layers: Sequence[Layer], steps: int, size: tuple[int, int, int]
) -> dict[int, Means]:
    """The same for the image that was made to drive each unit, by channel; none of a unit whose
    activation did not change."""
    channels = list(subject.by_unit())
    with unreported():
        made = maximize(
            subject.model,
            [Unit(subject.layer.name, channel) for channel in channels],
            preprocess=replace(subject.images.preprocess, size=size[1:]),
            steps=steps,
            seed=subject.seed,
            forward=subject.forward,
        )
    like = parameter_of(subject.model)
    batch = subject.images.preprocess.normalize(made.images.to(like))
    result: list[Means] = []
    for rows in in_chunks(range(len(batch)), subject.batch_size):
        result += _means(subject, layers, batch[list(rows)], None)
    silent = made.silent.tolist()
    return {c: means for c, means, dead in zip(channels, result, silent, strict=True) if not dead}


def _means(
    subject: Subject,
    layers: Sequence[Layer],
    batch: Tensor,
    positions: Sequence[Pixel] | None,
) -> list[Means]:
    """By image and layer the mean of each channel within the receptive field of the unit's position.

    Args:
        subject: of the unit.
        layers: as they are for images of the scan; the unit's own is the last.
        batch: images (n, c, h, w) in model space, also of another size.
        positions: of the unit in each; None: the middle of its map.
    """
    with evaluating(subject.model), torch.no_grad():
        values = read(subject.model, batch.clone(), list(layers), forward=subject.forward)
    maps = {layer.name: as_maps(layer, values[layer.name]).double().cpu() for layer in layers}
    if positions is None:
        _, _, h, w = maps[layers[-1].name].shape
        positions = [(h // 2, w // 2)] * len(batch)
    result: list[Means] = []
    for i, position in enumerate(positions):
        box = layers[-1].field.box(*position, clip=False)
        means = {}
        for layer in layers:
            own = maps[layer.name][i]
            if layer.has_maps:
                layer = replace(layer, shape=tuple(own.shape))  # for images of this size
            rows = _within(layer, 0, batch.shape[2], (box.top, box.bottom))
            columns = _within(layer, 1, batch.shape[3], (box.left, box.right))
            means[layer.name] = own[:, rows][:, :, columns].mean(dim=(1, 2))
        result.append(means)
    return result


def _within(layer: Layer, axis: int, length: int, limits: tuple[int, int]) -> list[int]:
    """The positions along an axis whose fields have their middle within the limits; the nearest one
    where none has."""
    first, last = limits
    pixels = middles(layer, axis, length).tolist()
    within = [i for i, pixel in enumerate(pixels) if first <= pixel < last]
    if within:
        return within
    distances = [abs(pixel - (first + last - 1) / 2) for pixel in pixels]
    return [distances.index(min(distances))]
