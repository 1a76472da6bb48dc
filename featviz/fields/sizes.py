"""The layers of a model for images that differ in size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from featviz.errors import ModelError, SizeError
from featviz.fields.anatomy import Anatomy, anatomy_at_size
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.units import Layer

Shape = tuple[int, int, int]
"""(c, h, w)."""


class LayersBySize:
    """The layers of a scan for images of any size: the anatomy of each size is made when it is first
    asked for, and kept.

    Where positions are, what pads them and how large the map is depends on the image's size; so may
    the receptive field, of an adaptive pooling, say.

    Args:
        model: the network.
        shape: that of the images that the layers to come are of.
        layers: those that are asked for.
        forward: how the model is called, as of `read`; None: ``model(images)``.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: Shape,
        layers: Iterable[str | Layer],
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.shape = shape
        self.names = [str(layer) for layer in layers]
        self.forward = forward
        self._anatomies: dict[Shape, Anatomy] = {}

    def layer(self, layer: Layer, shape: Shape) -> Layer:
        """A layer, known for images of ``self.shape``, for images (c, h, w) of another.

        Raises:
            ModelError: the model does not take such an image.
        """
        if shape == self.shape:
            return layer
        if shape not in self._anatomies:
            self._anatomies[shape] = anatomy_at_size(self.model, shape, self.names, self.forward)
        own = self._anatomies[shape][layer.name]
        if layer.field.kind in ("refuted", "data"):
            image = Box(0, 0, shape[1], shape[2])
            return replace(own, field=own.field.as_full_image(layer.field.kind, image))
        return own

    def for_maps(self, layer: Layer, shape: Shape) -> Layer:
        """The layer that `as_maps` takes for outputs of images (c, h, w): that of their size where
        positions lie along one axis, or as it is."""
        if layer.layout in ("nlc", "ncl"):
            return self.layer(layer, shape)
        return layer


def check_takes(model: nn.Module, shapes: Iterable[Shape], forward: Forward | None) -> None:
    """Make sure that a model takes images of several sizes.

    Raises:
        SizeError: it does not take one of them.
    """
    for shape in shapes:
        try:
            anatomy_at_size(model, shape, [], forward)
        except ModelError as error:
            raise SizeError(
                f"images differ in size, and the model does not take all of them ({error}): give the "
                "size that it takes",
                "size",
            ) from error
