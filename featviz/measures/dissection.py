"""How far units answer to labelled pixels: network dissection."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.data import SyntheticImages
from featviz.errors import UsageError
from featviz.measures._values import Values, by_unit, tensor_of

_IMAGES = 64  # whose maps are enlarged at once


def mask_iou(
    maps: Values, masks: Mapping[str, Tensor] | Mapping[str, Values], share: float = 0.005
) -> Tensor:
    """The intersection over union of each unit's strongest activations with the masks of concepts.

    A unit's threshold is the value that this share of all positions of all images exceeds. Its maps are
    enlarged to the masks bilinearly, and what is above the threshold is counted over all images.

    Args:
        maps: (images, c, h, w), ``responses(model, images, layers, reduce="map")[layer]``.
        masks: by concept, (images, height, width) bool, in the pixels of the images. An image without
            the concept has an empty one.
        share: of positions, above 0 and below 1.

    Returns:
        (c, concepts) float64 in [0, 1]; 0 where there is nothing to unite.

    Raises:
        UsageError: maps or masks of other shapes, no masks, or a share that is out of range.
        NumberError: values that are NaN.

    Source: Bau, Zhou, Khosla, Oliva & Torralba, Network dissection, CVPR 2017, section 3.2. There maps are
    anchored at the centres of receptive fields; here at the grid that spans the image.

    Example:
        >>> import torch
        >>> from featviz.measures import mask_iou
        >>> maps = torch.zeros(1, 1, 4, 4)
        >>> maps[0, 0, 1, 2] = 1.0
        >>> mask_iou(maps, {"dot": maps[0] > 0}, share=0.1).item()
        1.0
    """
    if not 0 < share < 1:
        raise UsageError(f"share={share}: give a number above 0 and below 1", "share")
    maps = tensor_of(maps)
    if maps.dim() != 4:
        raise UsageError(f"maps of shape {tuple(maps.shape)}: give (images, c, h, w)", "maps")
    by_unit(maps)  # checks
    stacked = _stacked(masks, len(maps))
    thresholds = torch.stack([_threshold(maps[:, c], share) for c in range(maps.shape[1])])
    intersections = torch.zeros(maps.shape[1], stacked.shape[1], dtype=torch.float64)
    unions = torch.zeros_like(intersections)
    for start in range(0, len(maps), _IMAGES):
        own = stacked[start : start + _IMAGES].movedim(1, 0).flatten(1).double()  # (k, pixels)
        for c in range(maps.shape[1]):
            plane = maps[start : start + _IMAGES, c : c + 1].float()
            enlarged = F.interpolate(plane, stacked.shape[2:], mode="bilinear", align_corners=False)
            above = (enlarged > thresholds[c]).flatten().double()
            both = own @ above
            intersections[c] += both
            unions[c] += own.sum(dim=1) + above.sum() - both
    return intersections / unions.clamp(min=1)


def synthetic_concepts(data: SyntheticImages) -> dict[str, Tensor]:
    """The masks of the shapes, textures and colours of synthetic images, by name: (images, size, size)
    bool each, the object where it has the concept.

    Example:
        >>> from featviz.data import SyntheticImages
        >>> from featviz.measures import synthetic_concepts
        >>> masks = synthetic_concepts(SyntheticImages(12, size=32))
        >>> list(masks)[:3], masks["red"].shape
        (['blue', 'checked', 'crescent'], torch.Size([12, 32, 32]))
    """
    masks: dict[str, Tensor] = {}
    empty = torch.zeros(len(data), data.size, data.size, dtype=torch.bool)
    for index in range(len(data)):
        sample = data.sample(index)
        for factor in ("shape", "texture", "color"):
            name = str(sample.factors[factor])
            masks.setdefault(name, empty.clone())[index] = sample.mask
    return dict(sorted(masks.items()))


def _stacked(masks: Mapping[str, Tensor] | Mapping[str, Values], n: int) -> Tensor:
    """(images, concepts, height, width) bool."""
    shapes = {tuple(mask.shape) for mask in masks.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3 or next(iter(shapes))[0] != n:
        shown = ", ".join(map(str, sorted(shapes))) or "none"
        raise UsageError(f"masks of shapes {shown}: give ({n}, height, width) for each", "masks")
    return torch.stack([tensor_of(mask).bool() for mask in masks.values()], dim=1)


def _threshold(values: Tensor, share: float) -> Tensor:
    """The smallest of the values that no more than this share of them exceeds."""
    flat = values.flatten().float()
    above = math.floor(share * len(flat))
    return flat.kthvalue(len(flat) - above).values
