"""Localisation: whether a picture lies on what the unit responds to, where that is known."""

from __future__ import annotations

import torch
from torch import Tensor

from featviz.checks._bootstrap import Value
from featviz.checks._subject import Subject
from featviz.data.synthetic import sample_of
from featviz.geometry import Box
from featviz.units import Layer

ABSENT = "localisation needs images whose objects are known: give featviz.data.SyntheticImages"
"""Why there is no number for other images."""
Masks = dict[str, Tensor]


def localisation(subject: Subject) -> list[Value]:
    """The share of the signal's energy on what the unit responds to.

    Of the masks that all images of a unit's exemplars have (the object with its texture, the ground
    around it, and in faces eyes and nose), the unit's own is the one under which its activation
    maps have the highest mean, of positive activations, at the positions whose receptive fields
    have their middle there. With s the signal of an exemplar in its receptive field and m the mask:

        localisation        sum of s^2 under m / sum of s^2
        localisation_area   pixels under m / pixels

    Range: 0 to 1. Good: above the share of the area, which is what a signal spread evenly gets.
    Exemplars whose receptive field lies under the mask altogether, or not at all, can show nothing
    and are left out. A layer without maps has the object's mask.

    Source: the energy-based pointing game of Wang et al., *Score-CAM*, CVPR workshops 2020.
    """
    masks = {target.image: masks_of(subject, target.image) for target in subject.exemplars}
    known = {image: own for image, own in masks.items() if own}
    if not known:
        return []
    maps = subject.reading.maps_of(known)
    values: list[Value] = []
    for channel, indices in subject.by_unit().items():
        own = [i for i in indices if subject.exemplars[i].image in known]
        images = [subject.exemplars[i].image for i in own]
        if not own:
            continue
        planes = [maps[image][channel] for image in images]
        name = preferred(subject.layer, planes, [known[image] for image in images])
        for i in own:
            values += _of_exemplar(subject, i, known[subject.exemplars[i].image][name])
    return values


def _of_exemplar(subject: Subject, i: int, mask: Tensor) -> list[Value]:
    target = subject.exemplars[i]
    values = []
    for name, signals in subject.own.items():
        share, area = shares(signals[i].energy, mask[signals[i].box.region])
        if share is not None and 0 < area < 1:
            where = ("", target.channel, target.image)
            values.append(Value(name, "localisation", *where, share))
            values.append(Value(name, "localisation_area", *where, area))
    return values


def shares(energy: Tensor, mask: Tensor) -> tuple[float | None, float]:
    """Of a map of energy (h, w), and of its pixels, the share under a mask; None where there is no
    energy."""
    area = float(mask.double().mean())
    total = float(energy.double().sum())
    if not total > 0:
        return None, area
    return float(energy[mask].double().sum()) / total, area


def masks_of(subject: Subject, image: int) -> Masks:
    """The masks (h, w) of an image by name; empty where they are not known."""
    sample = sample_of(subject.images.keys[image])
    if sample is None:
        return {}
    pixels = subject.images[image]
    drawn = sample.image.float() / 255
    if drawn.shape != pixels.shape or not torch.allclose(drawn, pixels.float().cpu()):
        return {}  # it has the name of a synthetic image, or was scaled
    masks = {"object": sample.mask, "ground": ~sample.mask}
    extent = Box(0, 0, *sample.mask.shape)
    for name, box in sample.parts.items():
        masks[name] = torch.zeros_like(sample.mask)
        masks[name][box.clip(extent).region] = True
    return masks


def preferred(layer: Layer, planes: list[Tensor], masks: list[Masks]) -> str:
    """The mask under which activation maps (h, w), one an image, have the highest mean."""
    names = [name for name in masks[0] if all(name in own for own in masks)]
    if not layer.has_maps:
        return "object"
    means = {}
    for name in names:
        pairs = zip(planes, masks, strict=True)
        means[name] = sum(_mean_under(layer, plane, own[name]) for plane, own in pairs)
    return max(means, key=lambda name: means[name])


def _mean_under(layer: Layer, plane: Tensor, mask: Tensor) -> float:
    """The mean of a map's positive values at positions whose middle lies under the mask."""
    rows = middles(layer, 0, mask.shape[0])
    columns = middles(layer, 1, mask.shape[1])
    under = mask[rows][:, columns]
    if not under.any():
        return 0.0
    return float(plane[under].clamp(min=0).mean())


def middles(layer: Layer, axis: int, length: int) -> Tensor:
    """The middle pixel of each position's receptive field along an axis, within the image."""
    positions = layer.map_size[axis]
    pixels = []
    for position in range(positions):
        middle = (position + 0.5) * length / positions
        if layer.field.is_local:
            field = layer.field
            start = position * field.stride[axis] - field.padding[axis]
            middle = float(start) + field.size[axis] / 2
        pixels.append(min(max(int(middle), 0), length - 1))
    return torch.tensor(pixels)
