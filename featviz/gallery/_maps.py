"""The activation maps of exemplars, small: where else in its image a unit responds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from featviz.bars import bar as progress_bar
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.gallery import sprites
from featviz.hooks import evaluating, read
from featviz.images import Images
from featviz.methods._inputs import batch_for, check_same_images, scanned_image
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


def map_box(layer: Layer, image: tuple[int, int]) -> list[float]:
    """Top, left, bottom, right of a layer's map on its image of this (height, width), in pixels: each
    position covers a stride about the middle of its receptive field."""
    field = layer.field
    if not field.is_local:
        return [0.0, 0.0, float(image[0]), float(image[1])]
    starts, stops = [], []
    for axis in (0, 1):
        start = float((field.size[axis] - field.stride[axis]) / 2 - field.padding[axis])
        starts.append(start)
        stops.append(start + float(field.stride[axis]) * layer.map_size[axis])
    return [*starts, *stops]


@torch.inference_mode()
def activation_maps(
    model: nn.Module,
    images: Images,
    scans: Sequence[LayerScan],
    forward: Forward | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The maps of all exemplars of some layers of one scan, from one forward pass for each image that
    is an exemplar of any.

    Returns:
        By layer, (units, k, h, w) uint8: the response at each position as a share of the exemplar's
        score, of which 255 is all, and negative responses are 0; where no exemplar is, 0. Layers
        that ``map_size`` has no size for are left out.

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
    check_same_images(images, next(iter(kept.values())).listing)
    used = _images_of(kept)
    starts = range(0, len(used), BATCH)
    for start in progress_bar(starts, desc="maps", unit="batch", progress=progress):
        chosen = used[start : start + BATCH]
        outputs = read_maps(model, images, kept, chosen, forward)
        for name, layer_scan in kept.items():
            for row, image in enumerate(chosen):
                _write_maps(maps[name], layer_scan, image, outputs[name][row])
    return maps


def read_maps(
    model: nn.Module,
    images: Images,
    scans: Mapping[str, LayerScan],
    chosen: Sequence[int],
    forward: Forward | None = None,
) -> dict[str, Tensor]:
    """The maps of some images, by their indices, in one forward pass: by layer, (images, units, h, w)."""
    listing = next(iter(scans.values())).listing
    pixels = torch.stack([scanned_image(images, listing, image) for image in chosen])
    batch = batch_for(model, images.preprocess.normalize(pixels))
    layers = [layer_scan.layer for layer_scan in scans.values()]
    with evaluating(model):
        outputs = read(model, batch, layers, forward=forward)
    return {name: as_maps(own.layer, outputs[name]) for name, own in scans.items()}


def _images_of(scans: Mapping[str, LayerScan]) -> list[int]:
    """The images of all exemplars, each once."""
    images: set[int] = set()
    for layer_scan in scans.values():
        images |= set(layer_scan.top.images.flatten().tolist())
    return sorted(image for image in images if image >= 0)


def _write_maps(maps: Tensor, layer_scan: LayerScan, image: int, output: Tensor) -> None:
    """Write the maps of all exemplars in one image, whose output of the layer is (units, h, w)."""
    units, ranks = (layer_scan.top.images == image).nonzero(as_tuple=True)
    if len(units) == 0:
        return
    scores = layer_scan.top.scores[units, ranks].float().clamp(min=1e-12)
    chosen = output[units.to(output.device)].cpu().float()
    pooled = adaptive_max_pool2d(chosen, maps.shape[-2:])
    shares = (pooled / scores[:, None, None]).nan_to_num().clamp(0, 1)
    maps[units, ranks] = (shares * 255).round().to(torch.uint8)


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
