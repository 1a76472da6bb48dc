"""The pages of images: the units of each layer that respond most to an image, and where in it they look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from featviz.bars import bar as progress_bar
from featviz.fields.sizes import LayersBySize
from featviz.files import write_atomic
from featviz.forward import Forward
from featviz.gallery import site, sprites
from featviz.gallery._maps import BATCH, page_data, read_maps
from featviz.gallery.numbers import rounded
from featviz.images import Images
from featviz.methods._image_maps import batches_by_size
from featviz.methods._inputs import check_same_images
from featviz.methods.explain import strongest
from featviz.records.explanation import LayerExplanation
from featviz.records.layer_scan import LayerScan
from featviz.records.scan import Scan

LIMIT = 500
"""Images with a page, at most: those that are exemplars of the most units."""
UNITS = 6
"""Units of each layer on a page."""
SIDE = 14
"""The longest side of an activation map there; larger ones are max-pooled down to it."""

_LEVELS = 5
"""Steps of a map from 0 to its highest: a veil shows hardly more, and they pack into a quarter of the bytes."""

Record = dict[str, Any]


def images_with_pages(record: Record) -> list[int]:
    """The images of a gallery whose layers are made that get a page, in the order of the listing."""
    counts: Counter[int] = Counter()
    for layer in record["layers"]:
        for _, _, images in layer["index"]:
            counts.update(images)
    by_count = sorted(counts, key=lambda image: (-counts[image], image))
    return sorted(by_count[:LIMIT])


@dataclass(frozen=True)
class ImagePages:
    """What the pages of images are made from.

    Attributes:
        result, model, images, forward: as of `build`.
        out: the gallery's folder.
        shown: the units that are shown of each layer of which not all are.
        sized: the layers for images of other sizes.
    """

    result: Scan
    model: nn.Module
    images: Images
    out: Path
    shown: Mapping[str, Sequence[int]]
    sized: LayersBySize
    forward: Forward | None

    @torch.inference_mode()
    def make(self, chosen: Sequence[int], progress: bool) -> None:
        """Write what the pages of some images show, but for images whose file is there."""
        missing = [image for image in chosen if not site.image_script(self.out, image).exists()]
        if not missing:
            return
        check_same_images(self.images, self.result.listing)
        with progress_bar(
            desc="gallery images", total=len(missing), unit="image", progress=progress
        ) as bar:
            for batch in batches_by_size(self.result.listing, missing, BATCH):
                self._make_batch(batch)
                bar.update(len(batch))

    def _make_batch(self, batch: Sequence[int]) -> None:
        maps = read_maps(self.model, self.images, self.result, batch, self.sized, self.forward)
        for row, image in enumerate(batch):
            of_image = {name: of_batch[row] for name, of_batch in maps.items()}
            write_atomic(site.image_script(self.out, image), self._script(image, of_image))

    def _script(self, image: int, maps: Mapping[str, Tensor]) -> str:
        """What the page of one image shows: by the number of a layer its units with their shares; a
        picture of their maps; and where in the image these are."""
        shares, rows = [], []
        for number, (name, layer_scan) in enumerate(self.result.items()):
            own = strongest(layer_scan, maps[name], UNITS, self.shown.get(name))
            if own.channels:
                pairs = zip(own.channels, own.shares.tolist(), strict=True)
                shares.append([number, [[unit, rounded(share)] for unit, share in pairs]])
                rows.append(_row(layer_scan, own, maps[name]))
        own_data = [shares, _packed(rows), self._size(image)]
        return f"featviz.imagePage.receive({', '.join(map(site.script, own_data))});\n"

    def _size(self, image: int) -> Record | None:
        """Of an image whose size is another than the page knows, its size and those of its maps."""
        listing = self.result.listing
        shape = listing.shape_of(image)
        if shape == listing.input_shape:
            return None
        layers = []
        for layer_scan in self.result.values():
            own = page_data(self.sized.layer(layer_scan.layer, shape), shape[1:], SIDE)
            layers.append(own.get("map"))
        return {"input": list(shape[1:]), "maps": layers}

    def layers(self) -> list[Record]:
        """What the page has to know of each layer of the scan."""
        size = self.result.listing.input_shape[1:]
        return [page_data(layer_scan.layer, size, SIDE) for layer_scan in self.result.values()]


def _row(layer_scan: LayerScan, own: LayerExplanation, maps: Tensor) -> Tensor:
    """The maps of a layer's units beside each other, each in the corner of a square: (SIDE, UNITS * SIDE) uint8, of
    which 255 is the unit's response to the image."""
    row = torch.zeros(SIDE, UNITS * SIDE, dtype=torch.uint8)
    chosen = maps[own.channels].float().cpu()
    height, width = min(maps.shape[1], SIDE), min(maps.shape[2], SIDE)
    pooled = adaptive_max_pool2d(chosen, (height, width))
    levels = (pooled / own.responses[:, None, None]).nan_to_num().clamp(0, 1)
    for i, level in enumerate((levels * _LEVELS).round() * (255 // _LEVELS)):
        row[:height, i * SIDE : i * SIDE + width] = level
    return row


def _packed(rows: Sequence[Tensor]) -> str:
    """The rows of all layers below each other as the address of a picture."""
    if not rows:
        return ""
    picture = torch.cat(list(rows)).expand(3, -1, -1)
    return sprites.address(sprites.packed(picture, crisp=True))
