"""Whether features move along with a transformed image."""

from __future__ import annotations

from itertools import product
from math import isnan

import torch
from torch import Tensor, nn

from featviz.errors import LayerError, NumberError, UsageError
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.geometry import Box, ReceptiveField
from featviz.hooks import evaluating, read
from featviz.methods._inputs import batch_for, batches_of, check_rows, layers_for
from featviz.methods.transforms import Affine, Rotate, Scale, Translate, transformed
from featviz.units import Layer, LayersLike

_ALL = 1 - 1e-6  # of a bilinear interpolation of zeros and ones: only ones went in, up to rounding


@torch.inference_mode(False)
def equivariance(
    model: nn.Module,
    x: Tensor,
    layers: LayersLike,
    transform: Translate | Rotate | Scale,
    *,
    forward: Forward | None = None,
    batch_size: int = 32,
) -> dict[str, float]:
    """How far f(g(x)), the features of the transformed image, are from g(f(x)), the transformed
    features.

    The error is |f(g(x)) - g(f(x))| / |g(f(x))| over all images and over the positions whose
    receptive fields, in both, hold pixels of the image alone: neither padding nor pixels that the
    transform brought in. A translation by d pixels moves the maps of a layer of stride s by d / s positions;
    where that is not an integer, and when maps are turned or scaled, they are interpolated
    bilinearly. Convolution is equivariant to translations by its stride: there the error is 0, up
    to rounding.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (c, h, w) or (n, c, h, w), images in model space.
        layers: a pattern, names, or layers whose outputs are maps.
        transform: `Translate`, `Rotate` or `Scale`.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.

    Returns:
        By layer; nan where no receptive field holds pixels of the image alone: give larger images,
        or a smaller transform.

    Raises:
        LayerError: a layer that is not there, or whose positions all depend on the full image.
        UsageError: ``x`` is not images, or no image in a batch.
        NumberError: a layer gives what is not a number.

    Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2.

    Example:
        >>> import torch
        >>> from featviz import Translate, equivariance, load_model
        >>> x = torch.randn(1, 3, 128, 128).double()
        >>> errors = equivariance(load_model("zfmini").double(), x, "conv2", Translate(8, -4))
        >>> errors["conv2"] < 1e-12
        True
    """
    images = batch_for(model, x)
    if not isinstance(transform, Affine):
        raise UsageError(
            f"transform={transform!r}: give a Translate, a Rotate or a Scale, such as Translate(8)"
        )
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give at least one image a batch")
    chosen = layers_for(model, images, layers, forward)
    errors = [_Error(layer, transform, images) for layer in chosen]
    with evaluating(model), torch.no_grad():
        for batch in batches_of(images, batch_size):
            original = read(model, batch, chosen, forward=forward)
            moved = read(model, transformed(transform, batch), chosen, forward=forward)
            for name, maps in moved.items():
                check_rows(name, maps, len(batch))
            for error in errors:
                name = error.layer.name
                error.add(*(as_maps(error.layer, own[name]) for own in (original, moved)))
    return {error.layer.name: error.relative() for error in errors}


class _Error:
    """The error of one layer, summed up batch after batch."""

    def __init__(self, layer: Layer, transform: Affine, images: Tensor) -> None:
        if not layer.has_maps or not layer.field.is_local:
            raise LayerError(
                f"layer {layer.name!r} sees the full image at every position: "
                "only maps can move with the image"
            )
        self.layer = layer
        self.transform = transform
        self.size = (images.shape[2], images.shape[3])
        self.comparable = _comparable(layer, transform, images[:1])
        self.difference = 0.0
        self.length = 0.0

    def add(self, original: Tensor, moved: Tensor) -> None:
        """Maps (n, c, h, w) of the images, and of the transformed images."""
        expected = self.transform.on_map(original, self.layer.field, self.size)
        expected = expected[..., self.comparable].cpu().double()  # (n, c, positions)
        difference = moved[..., self.comparable].cpu().double() - expected
        self.difference += float(difference.square().sum())
        self.length += float(expected.square().sum())
        if isnan(self.difference):
            raise NumberError(
                f"layer {self.layer.name!r} gives NaN: check weights and preprocessing"
            )

    def relative(self) -> float:
        """The error as a share of what was expected."""
        if not self.length:
            return float("nan")
        return float((self.difference / self.length) ** 0.5)


def _comparable(layer: Layer, transform: Affine, image: Tensor) -> Tensor:
    """Where a layer's maps of the image and of the transformed one both see pixels of the image
    alone: (h, w) bool."""
    size = (image.shape[2], image.shape[3])
    pixels = torch.ones(1, 1, *size, dtype=torch.float64)
    from_image = transform(pixels)[0, 0] > _ALL  # (h, w), not brought in by the transform
    original, moved = _clean_positions(layer, from_image)
    # a position of the moved map is interpolated from several: all of them have to be clean
    carried = transform.on_map(original.double()[None, None], layer.field, size)[0, 0] > _ALL
    both: Tensor = carried & moved
    return both.to(image.device)


def _clean_positions(layer: Layer, from_image: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (h, w) whose receptive fields hold no padding; and those of them whose fields hold
    none but the pixels (h, w) that are marked."""
    height, width = layer.map_size
    sums = _summed_area(from_image)
    original = torch.zeros(height, width, dtype=torch.bool)
    moved = torch.zeros(height, width, dtype=torch.bool)
    image = Box(0, 0, from_image.shape[0], from_image.shape[1])
    # a field's rows do not depend on x, nor its columns on y
    rows = [_unclipped(layer.field, y, 0) for y in range(height)]
    columns = [_unclipped(layer.field, 0, x) for x in range(width)]
    for y, x in product(range(height), range(width)):
        box = Box(rows[y].top, columns[x].left, rows[y].bottom, columns[x].right)
        if box.clip(image) == box:
            original[y, x] = True
            moved[y, x] = _sum(sums, box) == box.height * box.width
    return original, moved


def _unclipped(field: ReceptiveField, y: int, x: int) -> Box:
    return field.box(y, x, clip=False)


def _summed_area(values: Tensor) -> Tensor:
    """At (y, x) the sum of all values above and to the left, (h + 1, w + 1)."""
    return nn.functional.pad(values.double().cumsum(0).cumsum(1), (1, 0, 1, 0))


def _sum(sums: Tensor, box: Box) -> float:
    """Over a box, from a `_summed_area`."""
    top, left, bottom, right = box
    return float(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
