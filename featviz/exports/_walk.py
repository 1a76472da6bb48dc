"""All exemplars with their images and masks, image by image, so that each is read once and no more than
a few are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.exports._masks import Masker
from featviz.exports._subject import Slot
from featviz.forward import Forward
from featviz.images import Images
from featviz.methods._image_maps import maps_of
from featviz.methods._inputs import scanned_image
from featviz.tiles import to_uint8

_BATCH = 8  # images in a forward pass


class Illustration(NamedTuple):
    """An image, and the exemplars in it.

    Attributes:
        image: its index in the listing.
        pixels: (3, height, width) uint8, as the network is given it; the mean of its channels where these are
            not 3.
        exemplars: each with its mask, (height, width) bool; to be read once.
    """

    image: int
    pixels: Tensor
    exemplars: Iterator[tuple[Slot, Tensor]]


def illustrations(
    masker: Masker,
    model: nn.Module | None,
    images: Images,
    forward: Forward | None,
    progress: bool,
) -> Iterator[Illustration]:
    """Every image that is an exemplar of any unit.

    Args:
        masker: makes the masks.
        model: None where these need no activation maps.
        images: those of the scan.
        forward: how the model is called.
        progress: show a bar.

    Raises:
        ImageError: an image has changed since the scan.
    """
    subject = masker.subject
    listing = subject.result.listing
    slots = subject.slots()
    used = list(slots)
    with progress_bar(desc="export", total=len(used), unit="image", progress=progress) as bar:
        for start in range(0, len(used), _BATCH):
            chosen = used[start : start + _BATCH]
            pixels = torch.stack([scanned_image(images, listing, image) for image in chosen])
            layers = {slot.layer for image in chosen for slot in slots[image]}
            maps = _maps(masker, model, images, pixels, layers, forward)
            for row, image in enumerate(chosen):
                own = {name: output[row] for name, output in maps.items()}
                yield Illustration(image, _shown(pixels[row]), masker.of(slots[image], own))
                bar.update()


@torch.inference_mode()
def _maps(
    masker: Masker,
    model: nn.Module | None,
    images: Images,
    pixels: Tensor,
    names: set[str],
    forward: Forward | None,
) -> dict[str, Tensor]:
    """By layer, its activation maps (n, c, h, w) for n images; empty where no mask needs them."""
    if model is None or not masker.masks.needs_maps:
        return {}
    layers = [masker.subject.result[name].layer for name in sorted(names)]
    return maps_of(model, images, pixels, layers, forward)


def _shown(pixels: Tensor) -> Tensor:
    """An image (c, h, w) in [0, 1] as (3, h, w) uint8."""
    if len(pixels) != 3:
        pixels = pixels.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return to_uint8(pixels)
