"""What the measures look at: the exemplars of some units of one layer, and their signals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from featviz.checks._signals import ReadImage, Reading, Signal, Signals, Target
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.images.collection import Images
from featviz.names import MEMORY
from featviz.units import Layer


class Subject:
    """The exemplars of some units of one layer.

    Attributes:
        model: the network, which no measure changes.
        layer: of all units.
        images: of the scan.
        read_image: one of them in model space.
        exemplars: by unit, strongest first.
        signals: makes signals of targets, by name.
        seed: of every choice at random.
        memory: bytes that a batch may take.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        reading: reads the layer's activation maps.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer,
        images: Images,
        read_image: ReadImage,
        exemplars: Sequence[Target],
        signals: Signals,
        seed: int = 0,
        memory: int = MEMORY,
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.images = images
        self.read_image = read_image
        self.exemplars = list(exemplars)
        self.signals = signals
        self.seed = seed
        self.forward = forward
        self.reading = Reading(model, layer, read_image, memory, forward)

    @cached_property
    def own(self) -> Mapping[str, list[Signal]]:
        """The signals of the exemplars, by name, in their order."""
        return self.signals(self.model, self.exemplars)

    @property
    def names(self) -> list[str]:
        """Of what makes the signals."""
        return list(self.own)

    @property
    def batch_size(self) -> int:
        """How many images fit into memory at once."""
        return self.reading.batch_size

    def own_box(self, i: int) -> Box:
        """The box of an exemplar's signals."""
        return next(iter(self.own.values()))[i].box

    def by_unit(self) -> dict[int, list[int]]:
        """The indices of the exemplars of each unit."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, target in enumerate(self.exemplars):
            groups[target.channel].append(i)
        return dict(groups)

    def strongest(self, n: int) -> list[int]:
        """The indices of the n strongest exemplars of each unit."""
        chosen = []
        for indices in self.by_unit().values():
            chosen += indices[:n]
        return chosen

    def image_of(self, target: Target) -> Tensor:
        """The image of a target (c, h, w) in model space, on the model's device."""
        return self.read_image(target.image)
