"""Attributions of captum's kind as signals, so that they are rows beside the rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from featviz.checks._signals import ReadImage, Signal, Signals, Target
from featviz.forward import Forward
from featviz.methods.attribute import attribute
from featviz.units import Layer, Unit


@dataclass(frozen=True)
class Attributions:
    """The attributions of a layer's units by several methods, each in the receptive field."""

    layer: Layer
    methods: tuple[str, ...]
    read_image: ReadImage
    forward: Forward | None = None

    def __call__(self, model: nn.Module, targets: Sequence[Target]) -> dict[str, list[Signal]]:
        """Signals by method."""
        by_image: dict[int, list[int]] = defaultdict(list)
        for slot, target in enumerate(targets):
            by_image[target.image].append(slot)
        return {method: self._by(method, model, targets, by_image) for method in self.methods}

    def _by(
        self,
        method: str,
        model: nn.Module,
        targets: Sequence[Target],
        by_image: Mapping[int, list[int]],
    ) -> list[Signal]:
        maps: dict[int, Tensor] = {}
        for image, slots in by_image.items():
            own = [targets[slot] for slot in slots]
            units = [Unit(self.layer.name, t.channel, at=(t.y, t.x)) for t in own]
            results = attribute(
                model, self.read_image(image), units, method=method, forward=self.forward
            )
            maps |= dict(zip(slots, results.cpu(), strict=True))
        signals = []
        for slot, target in enumerate(targets):
            box = self.layer.field.box(target.y, target.x)
            signals.append(Signal(box, maps[slot][box.region].clone()))
        return signals


def together(*makers: Signals) -> Signals:
    """The signals of several makers, each under its names."""

    def all_signals(model: nn.Module, targets: Sequence[Target]) -> dict[str, list[Signal]]:
        signals: dict[str, list[Signal]] = {}
        for maker in makers:
            signals |= maker(model, targets)
        return signals

    return all_signals
