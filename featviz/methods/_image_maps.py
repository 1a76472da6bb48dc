"""Some images of a data set: those of one size together, and their activation maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.hooks import evaluating, read
from featviz.images.collection import Images
from featviz.methods._inputs import batch_for
from featviz.records.listing import Listing
from featviz.units import Layer


def maps_of(
    model: nn.Module,
    data: Images,
    pixels: Tensor,
    layers: Sequence[Layer],
    forward: Forward | None = None,
) -> dict[str, Tensor]:
    """The maps of layers for images (n, c, h, w) of a data set, as it gives them, from one forward pass
    in eval mode: by layer, (n, units, h, w)."""
    batch = batch_for(model, data.preprocess.normalize(pixels))
    with evaluating(model):
        outputs = read(model, batch, layers, forward=forward)
    return {layer.name: as_maps(layer, outputs[layer.name]) for layer in layers}


def batches_by_size(listing: Listing, images: Iterable[int], n: int) -> list[list[int]]:
    """Images, those of one size together and at most n at once."""
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for image in images:
        groups[listing.shape_of(image)].append(image)
    batches = []
    for group in groups.values():
        batches += [group[start : start + n] for start in range(0, len(group), n)]
    return batches
