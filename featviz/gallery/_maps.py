"""The activation maps of exemplars, small: where else in its image a unit responds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

from featviz.bars import bar as progress_bar
from featviz.fields.maps import map_box
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward
from featviz.gallery import sprites
from featviz.images import Images
from featviz.methods._image_maps import batches_by_size, maps_of
from featviz.methods._inputs import check_same_images, scanned_image
from featviz.records.layer_scan import LayerScan
from featviz.units import Layer

SIDE = 28  # a map's longest side; larger ones are max-pooled down to it
BATCH = 8  # images in a forward pass


def map_size(layer: Layer, side: int = SIDE) -> tuple[int, int] | None:
    """(height, width) of the maps that a gallery keeps of a layer, at most ``side``; None where a map would say
    nothing, since the layer has one position or no map at all."""
    if not layer.has_maps:
        return None
    height, width = layer.map_size
    if height * width == 1:
        return None
    return min(height, side), min(width, side)


@torch.inference_mode()
def activation_maps(
    model: nn.Module,
    images: Images,
    scans: Sequence[LayerScan],
    sized: LayersBySize,
    shown: Mapping[str, Sequence[int]],
    forward: Forward | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The maps of the exemplars of some layers of one scan, from one forward pass for each image that
    is an exemplar of any.

    Args:
        shown: by layer, the units whose exemplars are looked at; of a layer that is not there, all.

    Returns:
        By layer, (units, k, h, w) uint8, all of the size that the layer's maps have for the largest
        image: the response at each position as a share of the exemplar's score, of which 255 is all,
        and negative responses are 0; where no exemplar is, 0. Of units that are not shown some are
        missing, and layers that ``map_size`` has no size for are left out.

    Raises:
        ImageError: the images are not those of the scan.
    """
    kept = {}
    maps: dict[str, Tensor] = {}
    for layer_scan in scans:
        size = map_size(layer_scan.layer)
        if size is not None:
            name = layer_scan.layer.name
            kept[name] = layer_scan
            maps[name] = torch.zeros(*layer_scan.top.images.shape, *size, dtype=torch.uint8)
    if not kept:
        return maps
    listing = next(iter(kept.values())).listing
    check_same_images(images, listing)
    batches = batches_by_size(listing, _images_of(kept, shown), BATCH)
    for chosen in progress_bar(batches, desc="maps", unit="batch", progress=progress):
        outputs = read_maps(model, images, kept, chosen, sized, forward)
        for name, layer_scan in kept.items():
            for row, image in enumerate(chosen):
                _write_maps(maps[name], layer_scan, image, outputs[name][row])
    return maps


def read_maps(
    model: nn.Module,
    images: Images,
    scans: Mapping[str, LayerScan],
    chosen: Sequence[int],
    sized: LayersBySize,
    forward: Forward | None = None,
) -> dict[str, Tensor]:
    """The maps of some images of one size, by their indices, in one forward pass: by layer, (images, units, h, w)."""
    listing = next(iter(scans.values())).listing
    pixels = torch.stack([scanned_image(images, listing, image) for image in chosen])
    shape = listing.shape_of(chosen[0])
    layers = [sized.for_maps(layer_scan.layer, shape) for layer_scan in scans.values()]
    return maps_of(model, images, pixels, layers, forward)


def _images_of(scans: Mapping[str, LayerScan], shown: Mapping[str, Sequence[int]]) -> list[int]:
    """The images of all exemplars of the units that are shown, each once."""
    images: set[int] = set()
    for name, layer_scan in scans.items():
        own = layer_scan.top.images
        images |= set(own[shown.get(name, slice(None))].flatten().tolist())
    return sorted(image for image in images if image >= 0)


def _write_maps(maps: Tensor, layer_scan: LayerScan, image: int, output: Tensor) -> None:
    """Write the maps of all exemplars in one image, whose output of the layer is (units, h, w)."""
    units, ranks = (layer_scan.top.images == image).nonzero(as_tuple=True)
    if len(units) == 0:
        return
    scores = layer_scan.top.scores[units, ranks].float().clamp(min=1e-12)
    chosen = output[units.to(output.device)].cpu().float()
    pooled = _at_size(chosen, (maps.shape[-2], maps.shape[-1]))
    shares = (pooled / scores[:, None, None]).nan_to_num().clamp(0, 1)
    maps[units, ranks] = (shares * 255).round().to(torch.uint8)


def _at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, h, w) at a size: max-pooled to it, or, along an axis that is shorter, repeated."""
    smaller = min(maps.shape[1], size[0]), min(maps.shape[2], size[1])
    pooled = adaptive_max_pool2d(maps, smaller)
    return interpolate(pooled[None], size, mode="nearest-exact")[0]


def packed_maps(maps: Tensor) -> str:
    """A unit's maps (k, h, w) uint8 as the address of a picture, one below the other: WebP without
    loss."""
    column = maps.flatten(0, 1)
    return sprites.address(sprites.packed(column.expand(3, -1, -1), crisp=True))


def page_data(layer: Layer, image: Sequence[int], side: int = SIDE) -> dict[str, Any]:
    """What a page has to know of the maps of a layer: their size, at most ``side``, the layer's own, and the box
    that they cover in the image of this (height, width)."""
    size = map_size(layer, side)
    if size is None:
        return {}
    box = map_box(layer, (image[0], image[1]))
    return {"map": {"size": list(size), "of": list(layer.map_size), "box": box}}


def exemplar_data(layer: Layer, image: tuple[int, int]) -> dict[str, Any]:
    """The same for one exemplar, whose image has a size of its own, for which the layer is given."""
    data: dict[str, Any] = {"input": list(image)}
    if map_size(layer) is not None:
        data["map"] = {"of": list(layer.map_size), "box": map_box(layer, image)}
    return data
