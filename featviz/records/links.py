"""Which units of the layers before make up the response of a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featviz.errors import LayerError
from featviz.units import Unit


class Link(NamedTuple):
    """One unit's share in the response of another.

    Attributes:
        unit: at the other end.
        share: of the response, which is 1: the mean over exemplars of what one gives the other,
            divided by the mean response. Above 0 it excites, below it inhibits.
    """

    unit: Unit
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Links:
    """The shares of units in the responses of units behind them, in the mean over exemplars.

    Attributes:
        shares: by layer, by the name of a layer before it that reaches it through no other
            convolution: (units, units before) float64, what each unit before adds to the response.
        responses: by layer, (units,) float64: the mean response, before any rectifier. 0 of units
            that were left out: dead ones.
        rests: by layer, (units,) float64: the response less all shares. That is what biases and the
            shifts of batch norms add; behind what is not linear piece by piece, such as a smooth
            rectifier or a gate, also what that bends.
        exemplars: by layer, (units,) int64: how many exemplars these are the means of.
        backward_passes: by layer, how many exemplars took backward passes: all, where the channels
            that it is given are not each of one unit of a layer before. It is slower.

    Example:
        >>> from featviz import links, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = links(model, images, scan(model, images, "conv1, conv2", k=3), {"conv2": [7]})
        >>> result
        <Links of 1 layers, 1 units>
        >>> [link.unit.layer for link in result.exciting(Unit("conv2", 7), 2)]
        ['conv1', 'conv1']
    """

    shares: dict[str, dict[str, Tensor]]
    responses: dict[str, Tensor]
    rests: dict[str, Tensor]
    exemplars: dict[str, Tensor]
    backward_passes: dict[str, int]

    def __repr__(self) -> str:
        units = sum(int((counts > 0).sum()) for counts in self.exemplars.values())
        return f"<Links of {len(self.shares)} layers, {units} units>"

    def exciting(self, unit: Unit, n: int = 5) -> list[Link]:
        """The n units before that add most to a unit's response, most first; fewer where fewer add.

        Raises:
            LayerError: the unit's layer is not among these.
        """
        return [link for link in self._before(unit, n, largest=True) if link.share > 0]

    def inhibiting(self, unit: Unit, n: int = 5) -> list[Link]:
        """The n units before that take most from a unit's response, as `exciting` gives them."""
        return [link for link in self._before(unit, n, largest=False) if link.share < 0]

    def feeding(self, unit: Unit, n: int = 5) -> list[Link]:
        """The n units in whose responses a unit has the largest shares, above zero, largest first."""
        links = []
        for name, before in self.shares.items():
            if unit.layer in before:
                shares = self._relative(name, before[unit.layer][:, unit.channel])
                links += self._largest(name, shares, n, largest=True)
        links.sort(key=lambda link: -link.share)
        return [link for link in links[:n] if link.share > 0]

    def linked(self, unit: Unit, n: int = 5) -> dict[str, list[int]]:
        """The unit and all that it is linked with, as channels by layer: those to be projected."""
        links = [*self.exciting(unit, n), *self.inhibiting(unit, n), *self.feeding(unit, n)]
        channels: dict[str, set[int]] = {}
        for other in [unit, *(link.unit for link in links)]:
            channels.setdefault(other.layer, set()).add(other.channel)
        return {name: sorted(own) for name, own in channels.items()}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each of the five links that excite and the five that inhibit each unit."""
        rows = []
        for name, counts in self.exemplars.items():
            for channel in (counts > 0).nonzero().flatten().tolist():
                unit = Unit(name, channel)
                for link in [*self.exciting(unit), *self.inhibiting(unit)]:
                    before = {"before": link.unit.layer, "unit before": link.unit.channel}
                    rows.append({"layer": name, "unit": channel, **before, "share": link.share})
        return rows

    def _before(self, unit: Unit, n: int, *, largest: bool) -> list[Link]:
        if unit.layer not in self.shares:
            raise LayerError(
                f"no links of layer {unit.layer!r}: there are {', '.join(self.shares) or 'none'}"
            )
        links = []
        for name, shares in self.shares[unit.layer].items():
            own = shares[unit.channel] / self._scale(unit.layer)[unit.channel]
            links += self._largest(name, own, n, largest=largest)
        links.sort(key=lambda link: link.share, reverse=largest)
        return links[:n]

    def _relative(self, name: str, shares: Tensor) -> Tensor:
        """Shares (units,) in the responses of a layer, of which those of units left out are 0."""
        return shares / self._scale(name)

    def _scale(self, name: str) -> Tensor:
        """What shares are divided by: responses, which of living units are above zero."""
        tiny = torch.finfo(torch.float64).tiny
        return self.responses[name].clamp(min=tiny)

    @staticmethod
    def _largest(name: str, shares: Tensor, n: int, *, largest: bool) -> list[Link]:
        values, channels = shares.topk(min(n, len(shares)), largest=largest)
        pairs = zip(channels.tolist(), values.tolist(), strict=True)
        return [Link(Unit(name, channel), share) for channel, share in pairs]
