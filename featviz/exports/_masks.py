"""Where in its image a unit fires: exact masks in pixels, from its activation map or its receptive
field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.exports._subject import Slot, Subject
from featviz.fields.maps import map_box
from featviz.names import QUANTILE
from featviz.units import Layer

FIELD = "field"
SHARE = "share:"
_AT_ONCE = 64  # maps that are enlarged together


@dataclass(frozen=True)
class Masks:
    """A way to make masks.

    Attributes:
        name: as `export` has it.
        level: the number in the name; None for ``field``.
    """

    name: str
    level: float | None = None

    @property
    def needs_maps(self) -> bool:
        """Whether activation maps are needed."""
        return self.level is not None


def masks_of(name: str) -> Masks:
    """The way that a name means.

    Raises:
        UsageError: none.
    """
    if name == FIELD:
        return Masks(name)
    match = re.fullmatch(rf"(?:{QUANTILE}|{SHARE})(\d*\.?\d+)", str(name))
    if match is None or not 0 < float(match[1]) < 1:
        raise UsageError(
            f"masks={name!r}: give 'quantile:0.99', 'share:0.5', or 'field', with a number above 0 and "
            "below 1",
            "masks",
        )
    return Masks(name, float(match[1]))


def check_masks(masks: Masks, subject: Subject) -> None:
    """Make sure that the scan has what masks are made from.

    Raises:
        UsageError: it has not.
    """
    for name in subject.channels:
        layer_scan = subject.result[name]
        if masks.name == FIELD:
            layer_scan.check_positions()
        if masks.name.startswith(QUANTILE) and layer_scan.spectrum is None:
            raise UsageError(
                f"masks={masks.name!r} is a quantile over positions, which the scan has not counted: scan "
                "with spectrum=True, or give masks='share:0.5' or 'field'",
                "masks",
                "spectrum",
            )


class Masker:
    """Makes the masks of exemplars, a few at a time.

    Args:
        masks: the way to make them.
        subject: whose exemplars they are of.
    """

    def __init__(self, masks: Masks, subject: Subject) -> None:
        self.masks = masks
        self.subject = subject
        self._quantiles: dict[str, Tensor] = {}
        if masks.level is not None and masks.name.startswith(QUANTILE):
            for name in subject.channels:
                spectrum = subject.result[name].spectrum
                assert spectrum is not None  # it is checked
                self._quantiles[name] = spectrum.positions.quantile(masks.level)

    def of(
        self, slots: Sequence[Slot], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[Slot, Tensor]]:
        """The exemplars in one image, each with its mask, (height, width) bool on the CPU.

        Args:
            slots: of the image, layer by layer.
            maps: by layer, its activation maps for the image (c, h, w), if they are needed.
        """
        for name, group in groupby(slots, key=lambda slot: slot.layer):
            own = list(group)
            for start in range(0, len(own), _AT_ONCE):
                some = own[start : start + _AT_ONCE]
                yield from zip(some, self._some(name, some, maps), strict=True)

    def _some(self, name: str, slots: Sequence[Slot], maps: Mapping[str, Tensor]) -> Tensor:
        """The masks of exemplars of one layer, (n, height, width)."""
        if not self.masks.needs_maps:
            return torch.stack([self._field(slot) for slot in slots])
        channels = torch.tensor([self.subject.channel(slot) for slot in slots])
        own = maps[name][channels.to(maps[name].device)].float()
        limits = self._limits(name, channels, own)
        layer = self.subject.result[name].layer
        return (enlarged(layer, own, self.subject.size) > limits[:, None, None]).cpu()

    def _limits(self, name: str, channels: Tensor, maps: Tensor) -> Tensor:
        """What a response has to exceed, for each of some maps (n, h, w)."""
        if name in self._quantiles:
            return self._quantiles[name][channels].to(maps.device)
        assert self.masks.level is not None
        return maps.amax(dim=(1, 2)).double() * self.masks.level

    def _field(self, slot: Slot) -> Tensor:
        mask = torch.zeros(self.subject.size, dtype=torch.bool)
        mask[self.subject.box(slot).region] = True
        return mask


def enlarged(layer: Layer, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Activation maps (n, h, w) at each pixel of the image, (n, height, width) float64: bilinear between the
    middles of receptive fields, and as at the nearest position beyond the outermost.

    Source: Bau, Zhou, Khosla, Oliva & Torralba, Network dissection, CVPR 2017, section 3.2.
    """
    top, left, bottom, right = map_box(layer, size)
    rows = _weights(size[0], top, bottom, maps.shape[1])
    columns = _weights(size[1], left, right, maps.shape[2])
    return rows.to(maps.device) @ maps.double() @ columns.T.to(maps.device)


def _weights(pixels: int, start: float, stop: float, n: int) -> Tensor:
    """The weight (pixels, n) of each of n positions, which share the pixels from start to stop, at the middle of
    each pixel; exactly 0 for all but the two beside it."""
    middles = torch.arange(pixels, dtype=torch.float64) + 0.5
    at = (middles - start) * n / (stop - start) - 0.5
    distances = at.clamp(0, n - 1)[:, None] - torch.arange(n)
    return (1 - distances.abs()).clamp(min=0)
