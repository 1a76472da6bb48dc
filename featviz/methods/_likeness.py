"""Whether the projections of a layer's exemplars tell units and images apart, measured on a sample.

A sample unit's two strongest exemplars are compared with each other, aligned at the unit, and each
with another unit that responds at the same position.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

from featviz.errors import RuleError
from featviz.fields.maps import as_maps
from featviz.geometry import Box, Pixel, overlap
from featviz.hooks import evaluating, read
from featviz.methods._backproject import Job, Settings, backproject
from featviz.records.likeness import Likeness, cosine
from featviz.rules import RULES
from featviz.units import Layer

_SHARE = 0.02
"""Of the units that are projected, the share that is sampled, if that is more than `_FEW`."""
_FEW = 3
_OF_FEW = 4  # at most one in so many units
_EACH = 2  # exemplars of each of them

Signals = Mapping[int, Mapping[str, Tensor]]
"""By slot and rule, the signal in the receptive field."""
ImageJob = tuple[int, Job]
"""A job and its image."""


class Sample:
    """Some exemplars of a layer that are compared, and how to project them."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layer,
        jobs: Mapping[int, Sequence[Job]],
        settings: Settings,
        layer_of: Callable[[int], Layer],
    ) -> None:
        self.model = model
        self.layer = layer
        self.layer_of = layer_of  # for images of the size of one
        self.settings = settings
        self.jobs = _sampled(layer, jobs)
        self.images: dict[int, Tensor] = {}

    def keep(self, index: int, image: Tensor) -> None:
        """Hold an image (c, h, w) in model space, if the sample has it, so that it is read once."""
        if index in self.jobs:
            self.images[index] = image

    @property
    def slots(self) -> list[int]:
        return [job.slot for job in chain.from_iterable(self.jobs.values())]

    def likeness(self, signals: Signals, rules: Sequence[str]) -> dict[str, Likeness]:
        """By rule, from the signals of the sample that are there already."""
        rivals = self._projected(self._rivals, rules)
        pairs = _pairs(self.jobs)
        result = {}
        for rule in rules:
            units = [cosine(signals[slot][rule], rival[rule]) for slot, rival in rivals.items()]
            images = []
            for (image_a, a), (image_b, b) in pairs:
                first, second = _common((self.layer_of(image_a), a), (self.layer_of(image_b), b))
                of_a, of_b = signals[a.slot][rule], signals[b.slot][rule]
                images.append(cosine(of_a[first.region], of_b[second.region]))
            result[rule] = Likeness.of(units, images)
        return result

    def alternatives(self, rules: Iterable[str]) -> dict[str, Likeness]:
        """Of all other rules that have a meaning on this network."""
        result: dict[str, Likeness] = {}
        for rule in [name for name in RULES if name not in rules]:
            try:
                signals = self._projected(self.jobs, [rule])
                result |= self.likeness(signals, [rule])
            except RuleError:
                continue
        return result

    @cached_property
    def _rivals(self) -> dict[int, list[Job]]:
        """At the same positions of the same images another unit each: one that responds there too,
        drawn at random, or the one that comes nearest to it."""
        draw = random.Random(f"{self.layer.name} rivals")
        rivals: dict[int, list[Job]] = defaultdict(list)
        for image, own in self.jobs.items():
            maps = self._maps(image)
            for job in own:
                responses = maps[:, job.y, job.x].tolist()
                others = [unit for unit in range(self.layer.channels) if unit != job.channel]
                active = [unit for unit in others if responses[unit] > 0]
                if others:
                    nearest = max(others, key=responses.__getitem__)
                    rival = draw.choice(active) if active else nearest
                    rivals[image].append(job._replace(channel=rival, score=responses[rival]))
        return dict(rivals)

    def _maps(self, image: int) -> Tensor:
        """The layer's activation maps of an image, (c, h, w)."""
        batch, forward = self.images[image][None], self.settings.forward
        with evaluating(self.model), torch.no_grad():
            outputs = read(self.model, batch, [self.layer], forward=forward)
        return as_maps(self.layer_of(image), outputs[self.layer.name])[0]

    def _projected(self, jobs: Mapping[int, list[Job]], rules: Sequence[str]) -> Signals:
        settings = replace(self.settings, rules=rules)
        images = self.images.__getitem__
        done = backproject(self.model, self.layer, jobs, images, settings, self.layer_of)
        return {projected.job.slot: projected.signals for projected in done}


def _sampled(layer: Layer, jobs: Mapping[int, Sequence[Job]]) -> dict[int, list[Job]]:
    """By image, the strongest exemplars of some units, drawn at random but the same each time."""
    by_unit: dict[int, list[ImageJob]] = defaultdict(list)
    for image, own in jobs.items():
        for job in own:
            by_unit[job.channel].append((image, job))
    n = len(by_unit)
    count = min(n, max(1, min(_FEW, n // _OF_FEW), round(_SHARE * n)))
    units = random.Random(layer.name).sample(sorted(by_unit), count)
    sampled: dict[int, list[Job]] = defaultdict(list)
    for unit in units:
        strongest = sorted(by_unit[unit], key=lambda entry: entry[1].slot)[:_EACH]
        for image, job in strongest:
            sampled[image].append(job)
    return dict(sampled)


def _pairs(jobs: Mapping[int, list[Job]]) -> list[tuple[ImageJob, ImageJob]]:
    """The exemplars of each unit, two and two, each with its image."""
    by_unit: dict[int, list[ImageJob]] = defaultdict(list)
    for image, own_jobs in jobs.items():
        for job in own_jobs:
            by_unit[job.channel].append((image, job))
    return [(own[0], own[1]) for own in by_unit.values() if len(own) == _EACH]


def _common(a: tuple[Layer, Job], b: tuple[Layer, Job]) -> tuple[Box, Box]:
    """Of the boxes of two positions, laid over each other at the unit, what both have: as a box in each."""
    box_a, at_a = _anchored(*a)
    box_b, at_b = _anchored(*b)
    in_a, in_b = overlap(box_a, at_a, box_b, at_b)
    return in_a.shifted(-box_a.top, -box_a.left), in_b.shifted(-box_b.top, -box_b.left)


def _anchored(layer: Layer, job: Job) -> tuple[Box, Pixel]:
    """The box of a position in the image, and a pixel that has the same place to the unit everywhere."""
    field = layer.field
    box = field.box(job.y, job.x)
    if field.is_local:
        unclipped = field.box(job.y, job.x, clip=False)
        return box, (unclipped.top, unclipped.left)
    height, width = layer.map_size
    y = round((job.y + 0.5) * box.height / height)
    x = round((job.x + 0.5) * box.width / width)
    return box, (y, x)
