"""The exemplars of some units of a layer, beside their projections."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featviz.errors import RuleError, UnitError, UsageError
from featviz.records._focus import LARGEST, SMALLEST, Window, effective_size, window
from featviz.records.likeness import Likeness, remark
from featviz.rules import is_relevance
from featviz.tiles import (
    blur_of,
    heat_tiles,
    masked_tiles,
    picture_tiles,
    sheet,
    signal_tiles,
)
from featviz.units import Layer

_PER_EXEMPLAR = (
    "patches",
    "visible",
    "boxes",
    "centers",
    "scores",
    "images",
    "full_image",
    "fallback",
)
_SHOWN = 8  # units that a notebook shows
_SIDE = 56  # pixels of a tile there


@dataclass(frozen=True, eq=False, repr=False)
class Exemplars:
    """The exemplars of c units of one layer, k each, beside their projections, all tiles of one
    size.

    Attributes:
        layer: what they are units of; ``channels``: which units, in order.
        patches: (c, k, channels, h, w) in [0, 1]: the receptive field, cut out of the image; 0
            outside the image.
        projections: by rule, (c, k, channels, h, w): the signal in model space, any sign; 0
            outside the image.
        visible: (c, k, h, w) bool, where a tile shows the image and not what lies beyond its edge.
        boxes: (c, k, 4) int64: top, left, bottom, right of what the tile shows, in pixels of the
            image.
        centers: (c, k, 2) int64: (y, x) of the middle of the receptive field, in pixels of the tile.
        scores: (c, k), -inf in empty slots; ``images``: (c, k) indices, -1 in empty slots.
        full_image: (c, k) bool, where the full image was computed rather than a crop.
        fallback: (c, k) bool, where a crop would have been enough by the receptive field, but did
            not give the recorded response, or the model does not take it.
        dead: (c,) bool, units that no image activates; they are not projected.
        smooth: noisy copies of each image over which projections are averaged; 0: the image itself.
        score: what images are ranked by, as of `scan`.
        is_focused: whether tiles are cut to the effective field, see `focused`.
        likeness: by rule, whether projections tell units and images apart, measured on a sample
            of the units; of other rules too, where they were tried.

    Example:
        >>> from featviz import load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> layer_scan = scan(model, images, "conv2", k=3)["conv2"]
        >>> exemplars = project_exemplars(model, images, layer_scan, [5, 9])
        >>> exemplars.patches.shape, exemplars.fallbacks
        (torch.Size([2, 3, 3, 27, 27]), 0)
    """

    layer: Layer
    channels: list[int]
    patches: Tensor
    projections: dict[str, Tensor]
    visible: Tensor
    boxes: Tensor
    centers: Tensor
    scores: Tensor
    images: Tensor
    full_image: Tensor
    fallback: Tensor
    dead: Tensor
    smooth: int = 0
    score: str = "max"
    is_focused: bool = False
    likeness: dict[str, Likeness] = field(default_factory=dict)

    def __repr__(self) -> str:
        rules = ", ".join(self.projections)
        size = "x".join(map(str, self.visible.shape[-2:]))
        return f"<Exemplars of {len(self.channels)} units of {self.layer}, k={self.k}, {size}: {rules}>"

    def _repr_html_(self) -> str:
        """The units as a notebook shows them, and what is to be known of the pictures."""
        shown = self.focused()
        rows = [shown._html_row(row) for row in range(min(len(self.channels), _SHOWN))]
        more = len(self.channels) - len(rows)
        note = f"<p>and {more} more units</p>" if more else ""
        table = "<table>" + "".join(rows) + "</table>"
        lines = filter(None, [repr(self), self.remark()])
        return "".join(f"<p>{escape(line)}</p>" for line in lines) + table + note

    def _html_row(self, row: int) -> str:
        """From above, as grids have it: the patches masked by the first rule, its projections or heat
        maps, and the patches."""
        channel = self.channels[row]
        if self.dead[row]:
            return f"<tr><td>{channel}</td><td>dead: no image activates it</td></tr>"
        height, width = self.visible.shape[-2:]
        scale = _SIDE / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        visible = self.visible[row]
        patches, signals = self.patches[row], self.projections[self.rule()][row]
        masked = masked_tiles(patches, signals, visible, size, self.blur)
        if is_relevance(self.rule()):
            drawn = heat_tiles(patches, signals, visible, size, self.blur)
        else:
            drawn = signal_tiles(signals, visible, size)
        lines = torch.cat([masked, drawn, picture_tiles(patches, visible, size)])
        return f"<tr><td>{channel}</td><td>{_html_picture(sheet(lines, self.k))}</td></tr>"

    @property
    def k(self) -> int:
        """Exemplars of each unit."""
        return self.scores.shape[1]

    @property
    def blur(self) -> float:
        """Of masks and heat maps, the standard deviation of the blur, in pixels of a patch."""
        image = self.layer.field.extent  # but for what strides leave over at its edges
        height, width = self.visible.shape[-2:]
        return blur_of((image.height, image.width), (height, width))

    @property
    def rules(self) -> list[str]:
        """The rules of the projections."""
        return list(self.projections)

    @property
    def fallbacks(self) -> int:
        """How many exemplars took the full image where a crop should have been enough."""
        return int(self.fallback.sum())

    def remark(self, rule: str | None = None) -> str:
        """What a reader has to know of these pictures under a rule (None: the first): that they
        hardly tell units, or images, apart, with the numbers. Empty where they do, or where it
        cannot be measured.
        """
        return remark(self.rule(rule), self.likeness)

    def rule(self, name: str | None = None) -> str:
        """A rule of these projections; None: the first.

        Raises:
            RuleError: there are no projections under it.
        """
        if name is None:
            return self.rules[0]
        if name not in self.projections:
            raise RuleError(
                f"no projections under rule {name!r}: there are {', '.join(self.rules)}"
            )
        return name

    def effective_size(self) -> tuple[int, int]:
        """(height, width) of the layer's effective field in pixels: the smallest box, centred on the
        receptive field and shaped like it, that holds 95% of the energy of the projections, in the
        mean over a sample of these; of several rules the largest.

        Source: Luo et al. 2016, of projections instead of gradients.
        """
        visible, centers = self.visible.flatten(0, 1), self.centers.flatten(0, 1)
        signals = [own.flatten(0, 1) for own in self.projections.values()]
        return max(effective_size(own, visible, centers) for own in signals)  # of one shape

    def focused(self, size: tuple[int, int] | None = None) -> Exemplars:
        """These with their tiles cut to the effective field, if that is much smaller than the
        receptive field: in a deep layer this is most of the image, and the signal a speck in it.

        A box at the edge of its image, or of its receptive field, is moved until it shows the image.

        Args:
            size: (height, width) in pixels; None: `effective_size`. Where it is more than 0.8 of the
                tile, or the tile is of up to 32 pixels, there is no cut.
        """
        height, width = self.visible.shape[-2:]
        size = size or self.effective_size()
        is_small = max(height, width) <= SMALLEST
        if is_small or size[0] > LARGEST * height or size[1] > LARGEST * width:
            return self
        visible = self.visible.flatten(0, 1)
        own = window(self.centers.flatten(0, 1), visible, size)
        shape = self.images.shape
        shown = own.cut(visible[:, None])[:, 0]
        first = torch.stack([own.top, own.left], dim=1)
        projections = {}
        for rule, signals in self.projections.items():
            projections[rule] = own.cut(signals.flatten(0, 1)).view(*shape, -1, *size)
        return replace(
            self,
            patches=own.cut(self.patches.flatten(0, 1)).view(*shape, -1, *size),
            projections=projections,
            visible=shown.view(*shape, *size),
            boxes=self._boxes_of(own, visible).view(*shape, 4),
            centers=self.centers - first.view(*shape, 2),
            is_focused=True,
        )

    def _boxes_of(self, own: Window, visible: Tensor) -> Tensor:
        """What windows show, (c * k, 4), in pixels of the image."""
        boxes = self.boxes.flatten(0, 1)
        rows, columns = visible.any(dim=2), visible.any(dim=1)
        # from the tile to the image
        dy = boxes[:, 0] - rows.byte().argmax(dim=1)
        dx = boxes[:, 1] - columns.byte().argmax(dim=1)
        top, left = own.top + dy, own.left + dx
        moved = torch.stack([top, left, top + own.size[0], left + own.size[1]], dim=1)
        first, last = boxes[:, :2].repeat(1, 2), boxes[:, 2:].repeat(1, 2)
        return moved.maximum(first).minimum(last)

    def row(self, channel: int) -> int:
        """Where a channel is in these tensors.

        Raises:
            UnitError: it is not among them.
        """
        if channel not in self.channels:
            raise UnitError(f"channel {channel} of layer {self.layer.name!r} is not among these")
        return self.channels.index(channel)

    def strongest(self, channels: Sequence[int]) -> Exemplars:
        """Of these units, the strongest exemplar alone."""
        rows = [self.row(channel) for channel in channels]
        tensors: dict[str, Any] = {n: getattr(self, n)[rows, :1].clone() for n in _PER_EXEMPLAR}
        projections = {rule: signal[rows, :1].clone() for rule, signal in self.projections.items()}
        return replace(
            self,
            channels=list(channels),
            dead=self.dead[rows],
            projections=projections,
            **tensors,
        )

    @staticmethod
    def joined(groups: Sequence[Exemplars]) -> Exemplars:
        """Those of several groups of units of one layer.

        Raises:
            UsageError: there are none, or they differ in layer, k or rules.
        """
        kinds = {(str(group.layer), group.k, group.smooth, *group.rules) for group in groups}
        if len(kinds) != 1:
            raise UsageError(f"{list(groups)}: give groups of one layer, with one k and one rules")
        tensors: dict[str, Any] = {}
        for name in (*_PER_EXEMPLAR, "dead"):
            tensors[name] = torch.cat([getattr(group, name) for group in groups])
        projections = {}
        for rule in groups[0].rules:
            projections[rule] = torch.cat([group.projections[rule] for group in groups])
        channels = []
        likeness: dict[str, Likeness] = {}
        for group in groups:
            channels += group.channels
            for rule, own in group.likeness.items():
                likeness[rule] = likeness.get(rule, Likeness()) + own
        return replace(
            groups[0],
            channels=channels,
            projections=projections,
            likeness=likeness,
            **tensors,
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each exemplar, for a table: layer, unit, rank, score, image, its box, and how it
        was computed."""
        rows = []
        for row, channel in enumerate(self.channels):
            start = {"layer": self.layer.name, "unit": channel}
            filled = int((self.images[row] >= 0).sum())  # empty slots are the last
            rows += [start | self._row(row, rank) for rank in range(filled)]
        return rows

    def _row(self, row: int, rank: int) -> dict[str, Any]:
        top, left, bottom, right = self.boxes[row, rank].tolist()
        return {
            "rank": rank + 1,
            "score": float(self.scores[row, rank]),
            "image": int(self.images[row, rank]),
            "top": top,
            "left": left,
            "bottom": bottom,
            "right": right,
            "full image": bool(self.full_image[row, rank]),
            "fallback": bool(self.fallback[row, rank]),
        }


def _html_picture(pixels: Tensor) -> str:
    """A picture (3, h, w) uint8 as an element of a page, with its pixels in it."""
    buffer = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "WEBP", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="masked patches and projections above their patches" src="data:image/webp;base64,{data}">'
