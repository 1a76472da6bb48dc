"""What the units of a network make of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from featviz.units import Layer


@dataclass(frozen=True, eq=False, repr=False)
class LayerExplanation:
    """The units of a layer that respond most to an image, for them, strongest first.

    Attributes:
        layer: theirs.
        channels: n of them.
        responses: (n,) the maxima of their maps.
        shares: (n,) these as shares of the strongest response of the unit in the scan.
        positions: (n, 2) int64, (y, x) of the response in the map.
        signals: (n, c, h, w) the projections of the responses, in model space.
    """

    layer: Layer
    channels: list[int]
    responses: Tensor
    shares: Tensor
    positions: Tensor
    signals: Tensor

    def __repr__(self) -> str:
        return f"<LayerExplanation of {self.layer}: units {', '.join(map(str, self.channels))}>"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The strongest units of an image, layer by layer.

    Attributes:
        key: of the image; ``label``: its class, or None.
        image: (c, h, w) in [0, 1].
        rule: of the projections.
        layers: in the order of the scan; those without a unit that responds are left out.

    Example:
        >>> from featviz import explain, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2, conv3", k=3)
        >>> explain(model, images, result, images.keys[2], n=2)
        <Explanation of 'checked yellow crescent/1-96-000002': 2 layers, under deconvnet>
    """

    key: str
    label: str | None
    image: Tensor
    rule: str
    layers: list[LayerExplanation]

    def __repr__(self) -> str:
        return f"<Explanation of {self.key!r}: {len(self.layers)} layers, under {self.rule}>"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each unit: layer, unit, response, share, y, x."""
        rows = []
        for own in self.layers:
            values = zip(own.responses.tolist(), own.shares.tolist(), strict=True)
            for i, (response, share) in enumerate(values):
                y, x = own.positions[i].tolist()
                at = {"layer": own.layer.name, "unit": own.channels[i], "y": y, "x": x}
                rows.append(at | {"response": response, "share": share})
        return rows
