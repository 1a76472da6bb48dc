"""Outputs of layers of any layout as activation maps, and where these lie on the image."""

from __future__ import annotations

from torch import Tensor

from featviz.units import Layer


def as_maps(layer: Layer, output: Tensor) -> Tensor:
    """The output of a layer as (n, c, h, w): a view of it, on the same graph.

    Args:
        layer: says where channels and positions are.
        output: what the layer returned. A fully connected layer's (n, c) becomes (n, c, 1, 1), and
            quantised numbers become floating point.
    """
    if output.is_quantized:
        output = output.dequantize()
    if output.dim() == 2:
        return output[:, :, None, None]
    if layer.layout == "nhwc":
        return output.permute(0, 3, 1, 2)
    if layer.layout == "nlc":
        output = output.transpose(1, 2)
    if layer.layout in ("nlc", "ncl"):
        return output.reshape(*output.shape[:2], *layer.map_size)  # a view: one axis is divided
    return output


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
