"""What is exported: some units of a scan, without those that no image activates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from featviz.errors import UsageError
from featviz.geometry import Box
from featviz.records.chosen import Channels, chosen_channels
from featviz.records.layer_scan import LayerScan
from featviz.records.peaks import NONE
from featviz.records.scan import Scan


class Slot(NamedTuple):
    """An exemplar: its unit is the ``row``-th of its layer's that are exported."""

    layer: str
    row: int
    rank: int


@dataclass(frozen=True)
class Subject:
    """Units and their exemplars.

    Attributes:
        result: the scan.
        channels: by layer, its units that are exported, in order: none that is dead.
        dead: by layer, those of the chosen units that are left out.
        k: the most exemplars that a unit has.
    """

    result: Scan
    channels: dict[str, list[int]]
    dead: dict[str, list[int]]
    k: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return self.result.listing.input_shape[1], self.result.listing.input_shape[2]

    def slots(self) -> dict[int, list[Slot]]:
        """The exemplars by image, in the order of the listing."""
        by_image: dict[int, list[Slot]] = {}
        for name, channels in self.channels.items():
            images = self.result[name].top.images[channels].tolist()
            for row, own in enumerate(images):
                for rank, image in enumerate(own):
                    if image != NONE:
                        by_image.setdefault(image, []).append(Slot(name, row, rank))
        return dict(sorted(by_image.items()))

    def channel(self, slot: Slot) -> int:
        """The unit of an exemplar."""
        return self.channels[slot.layer][slot.row]

    def exemplar(self, slot: Slot) -> dict[str, Any]:
        """An exemplar as a row of a table: `LayerScan.rows`, and its box in the image."""
        layer_scan = self.result[slot.layer]
        row = layer_scan.row(self.channel(slot), slot.rank)
        box = self.box(slot)
        return row | {"top": box.top, "left": box.left, "bottom": box.bottom, "right": box.right}

    def box(self, slot: Slot) -> Box:
        """The receptive field of an exemplar, in pixels of its image, which it is clipped to: all of
        it where its score is of no position."""
        layer_scan = self.result[slot.layer]
        y, x = layer_scan.top.positions[self.channel(slot), slot.rank].tolist()
        if y == NONE:
            return Box(0, 0, *self.size)
        return layer_scan.layer.field.box(y, x)


def subject_of(result: Scan, channels: Channels) -> Subject:
    """The units of a scan that are chosen, and not dead.

    Raises:
        UnitError, UsageError: as of `chosen_channels`, or all of them are dead.
    """
    chosen = chosen_channels(result, channels)
    exported: dict[str, list[int]] = {}
    dead: dict[str, list[int]] = {}
    k = 0
    for name, layer_scan in result.items():
        every = list(range(layer_scan.layer.channels))
        own = chosen.get(name, every)
        is_dead = layer_scan.statistics.dead.tolist()
        dead[name] = [channel for channel in own if is_dead[channel]]
        living = [channel for channel in own if not is_dead[channel]]
        if living:
            exported[name] = living
            k = max(k, filled(layer_scan))
    if not exported:
        raise UsageError("no image activates any of these units: there is nothing to export")
    return Subject(result, exported, dead, k)


def filled(layer_scan: LayerScan) -> int:
    """The most slots of a unit that an image has filled: fewer than k where images are fewer."""
    return int((layer_scan.top.images != NONE).sum(dim=1).max())
