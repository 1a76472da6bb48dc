"""Signals in pixel space, which the measures compare: of any making, one function for all."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.hooks import evaluating, read
from featviz.methods._backproject import FieldRefuted, Job, Settings, backproject
from featviz.names import MEMORY
from featviz.units import Layer

Item = TypeVar("Item")


class Target(NamedTuple):
    """A position of a unit in one image: an exemplar, or another unit at its position."""

    channel: int
    image: int
    y: int
    x: int


class Signal(NamedTuple):
    """The signal (c, h, w) of a target in a box of the image, zero outside of it."""

    box: Box
    values: Tensor

    @property
    def energy(self) -> Tensor:
        """(h, w): the squares, summed over channels."""
        return self.values.square().sum(dim=0)

    def within(self, box: Box) -> Tensor:
        """The signal (c, h, w) in a box that lies in its own."""
        return self.values[box.shifted(-self.box.top, -self.box.left).region]


ReadImage = Callable[[int], Tensor]
"""Gives an image (c, h, w) in model space, by its index."""
Signals = Callable[[nn.Module, Sequence[Target]], Mapping[str, list[Signal]]]
"""Gives the signals of targets in a model, in their order, by the name of what makes them."""


def singly(
    name: str, signals: Callable[[int, int, tuple[int, int]], Tensor], layer: Layer
) -> Signals:
    """Signals from a function of unit, image and position that gives (c, h, w) in the receptive
    field, whatever the model is."""

    def all_signals(model: nn.Module, targets: Sequence[Target]) -> dict[str, list[Signal]]:
        made = []
        for target in targets:
            values = signals(target.channel, target.image, (target.y, target.x))
            made.append(Signal(layer.field.box(target.y, target.x), values))
        return {name: made}

    return all_signals


@dataclass(frozen=True)
class Projections:
    """The projections of a layer's units under several rules, which share each forward pass."""

    layer: Layer
    rules: tuple[str, ...]
    read_image: ReadImage
    memory: int = MEMORY
    forward: Forward | None = None

    def __call__(self, model: nn.Module, targets: Sequence[Target]) -> dict[str, list[Signal]]:
        """Signals by rule. The responses are those of this model, read on the full images."""
        responses = self._responses(model, targets)
        jobs: dict[int, list[Job]] = defaultdict(list)
        for slot, (target, response) in enumerate(zip(targets, responses, strict=True)):
            job = Job(slot, target.channel, target.y, target.x, response)
            jobs[target.image].append(job)
        try:
            return self._projected(model, self.layer, jobs)
        except FieldRefuted as refuted:
            return self._projected(model, refuted.layer, jobs)

    def _responses(self, model: nn.Module, targets: Sequence[Target]) -> list[float]:
        """The response of each target on its full image."""
        reading = Reading(model, self.layer, self.read_image, self.memory, self.forward)
        maps = reading.maps_of(target.image for target in targets)
        return [float(maps[t.image][t.channel, t.y, t.x]) for t in targets]

    def _projected(
        self, model: nn.Module, layer: Layer, jobs: Mapping[int, list[Job]]
    ) -> dict[str, list[Signal]]:
        by_slot: dict[int, tuple[Box, dict[str, Tensor]]] = {}
        settings = Settings(self.rules, self.memory, forward=self.forward)
        for done in backproject(model, layer, jobs, self.read_image, settings):
            # a copy, so that the crop's signal is not held by its box
            own = {rule: signal.cpu().clone() for rule, signal in done.signals.items()}
            by_slot[done.job.slot] = done.box, own
        signals: dict[str, list[Signal]] = {rule: [] for rule in self.rules}
        for slot in range(len(by_slot)):
            box, own = by_slot[slot]
            for rule in self.rules:
                signals[rule].append(Signal(box, own[rule]))
        return signals


@dataclass(frozen=True)
class Reading:
    """How a layer's activation maps are read.

    Attributes:
        model, layer: the network, and the layer that is read.
        read_image: gives an image in model space.
        memory: bytes that a batch may take.
        forward: how the model is called, as of `read`; None: ``model(images)``.
    """

    model: nn.Module
    layer: Layer
    read_image: ReadImage
    memory: int = MEMORY
    forward: Forward | None = None

    @property
    def batch_size(self) -> int:
        """How many images fit into memory at once."""
        return fitting(self.layer, self.memory)

    def maps_of(self, images: Iterable[int]) -> dict[int, Tensor]:
        """The activation maps (c, h, w) for each image."""
        chosen = list(dict.fromkeys(images))
        maps: dict[int, Tensor] = {}
        for some in in_chunks(chosen, self.batch_size):
            batch = torch.stack([self.read_image(image) for image in some])
            maps |= zip(some, self.outputs(batch).cpu(), strict=True)
        return maps

    def outputs(self, batch: Tensor) -> Tensor:
        """The activation maps (n, c, h, w) for a batch, without gradients."""
        with evaluating(self.model), torch.no_grad():
            # a model may work in place on its input
            values = read(self.model, batch, [self.layer], forward=self.forward)
            return as_maps(self.layer, values[self.layer.name])


def fitting(layer: Layer, memory: int = MEMORY) -> int:
    """How many images a forward and backward pass to a layer may take at once."""
    return max(1, memory // max(1, 8 * layer.elements))


def in_chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """So many at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def seeded(*words: object) -> random.Random:
    """Random numbers that depend on these words alone, not on what was drawn before."""
    return random.Random(" ".join(map(str, words)))


def generator(*words: object) -> torch.Generator:
    """The same, for tensors."""
    return torch.Generator().manual_seed(seeded(*words).getrandbits(60))
