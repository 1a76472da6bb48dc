"""The units of a layer, as far as their files are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featviz.attached import modules_of
from featviz.gallery import sprites
from featviz.gallery._details import Details
from featviz.gallery.numbers import dominant
from featviz.patterns import split_call
from featviz.records.exemplars import Exemplars
from featviz.records.likeness import Likeness
from featviz.units import Layer

Record = dict[str, Any]


@dataclass
class Units:
    """The units of a layer, as far as they are made.

    Attributes:
        folder: where their files are.
        shown: the channels that the front page shows.
        filters: a picture of each unit's weights, in a first layer.
        details: of each unit, for its panel.
        numbers: of each unit, for its tile and its panel.
        columns: the pictures of those that are shown, by channel.
        fallbacks: how many exemplars took the full image because their crop did not do.
        likeness: by rule, whether projections tell units and images apart.
        maximized: by channel the activation of the image that was made to drive it.
        effective_size: (height, width) of the effective field, once it is measured.
        effective: what tiles show of the receptive field, in words; empty: all of it.
    """

    folder: Path
    shown: list[int]
    filters: list[Tensor] | None
    details: Details
    numbers: list[Record] = field(default_factory=list)
    columns: dict[int, Tensor] = field(default_factory=dict)
    fallbacks: int = 0
    likeness: dict[str, Likeness] = field(default_factory=dict)
    maximized: dict[int, float] = field(default_factory=dict)
    effective_size: tuple[int, int] | None = None
    effective: str = ""

    def add(self, exemplars: Exemplars) -> None:
        """Count what these exemplars say of all."""
        self.fallbacks += exemplars.fallbacks
        if exemplars.is_focused:
            height, width = exemplars.visible.shape[-2:]
            self.effective = f"{height} × {width} px"
        for rule, likeness in exemplars.likeness.items():
            self.likeness[rule] = self.likeness.get(rule, Likeness()) + likeness

    @property
    def exemplars(self) -> int:
        """How many exemplars they have together."""
        return sum(len(unit["exemplars"]) for unit in self.numbers)

    @property
    def images(self) -> list[int]:
        """The images of all exemplars and details, each once, in the order of the listing."""
        used = set(self.details.images)
        for unit in self.numbers:
            used |= {exemplar["image"] for exemplar in unit["exemplars"]}
        return sorted(used)

    @property
    def index(self) -> list[list[Any]]:
        """What search reads of each: number, class and images."""
        index = []
        for unit in self.numbers:
            images = [exemplar["image"] for exemplar in unit["exemplars"]]
            index.append([unit["unit"], dominant(unit), images])
        return index


def filters_of(model: nn.Module, layer: Layer, channels: int) -> list[Tensor] | None:
    """The filters of a convolution that looks at the image itself, as pictures; None for any other
    layer.
    """
    field = layer.field
    window = layer.kernel, layer.stride
    if field.kind != "exact" or window != (field.size, field.stride):
        return None  # something lies between it and the image
    modules = modules_of(model)
    name, _ = split_call(layer.call)
    weight = getattr(modules[name], "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        return None
    if weight.shape[1] not in (1, 3) or weight.shape[1] != channels:
        return None  # a grouped one, or of images that are no pictures
    return sprites.filters(weight)
