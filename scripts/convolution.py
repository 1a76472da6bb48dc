"""Properties of convolution, on any network: sparse interactions, shared parameters, strides, many
filters, inputs of any size.

    python scripts/convolution.py                                 # zfmini, synthetic images
    python scripts/convolution.py --model alexnet --weights DEFAULT --images photos/

Four figures: the connections and parameters of each layer, shared and not; the first layer moved by
1, 2 and 4 pixels; its filters, each with the map it makes; and the network on one picture at several
sizes. A figure that a network does not allow, such as another size with fully connected layers, is left
out and named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import choose
import torch
import torch.nn.functional as F
from shared import (
    Rows,
    heading_of,
    images_from,
    model_from,
    parser,
    positive,
    positives,
    run,
    write,
)
from torch import Tensor, nn

from featviz import Connections, Images, Layer, anatomy, connections, figures, read
from featviz.errors import FeatvizError, LayerError, ModelError
from featviz.figures import Strided
from featviz.hooks import evaluating

STRIDES = (1, 2, 4)
SCALES = (2 / 3, 1, 4 / 3, 2)
SMALLEST = 8  # pixels: the side of the smallest picture that is tried


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "convolution")
    result.add_argument(
        "--filters",
        type=positive,
        default=32,
        metavar="N",
        help="filters of the first layer (default: 32)",
    )
    result.add_argument(
        "--sizes",
        type=positives,
        metavar="PIXELS",
        help="sides of the inputs of figure 4, with commas (default: 2/3, 1, 4/3 and 2 of the usual)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Four figures: sharing, strides, filters, sizes."""
    model = model_from(args)
    images = images_from(args, model, synthetic=8)
    net = choose.anatomy_of(model, images, args.layers)
    counts = connections(model, net.input_shape)
    layers = [layer for layer in net.select(args.layers) if layer.module in counts]
    if not layers:
        raise LayerError(
            f"layers {args.layers!r}: none of them is a convolution; "
            f"the first of this model is {next(iter(counts))!r}"
        )
    first = next(layer for layer in net.values() if layer.module in counts)
    subject = Subject(args, model, images, first, layers)
    sharing(subject, counts)
    strides(subject)
    filters(subject)
    sizes(subject)


@dataclass(frozen=True)
class Subject:
    """The network that is looked at.

    Attributes:
        args: of the script.
        model, images: what they name; the first of the images is shown.
        first: the first convolution.
        layers: the convolutions that are asked for, in the order of a forward pass.
    """

    args: argparse.Namespace
    model: nn.Module
    images: Images
    first: Layer
    layers: list[Layer]

    @property
    def image(self) -> Tensor:
        """The picture that is shown, (c, h, w) in [0, 1]."""
        image: Tensor = self.images[0]
        return image

    def maps(self, model: nn.Module, layers: Sequence[Layer], picture: Tensor) -> dict[str, Tensor]:
        """The maps (c, h, w) that a model makes of a picture in [0, 1], by layer."""
        x = self.images.preprocess.normalize(picture)[None].to(next(model.parameters()))
        with evaluating(model), torch.no_grad():
            values = read(model, x, layers)
        return {name: value[0].float().cpu() for name, value in values.items()}

    def convolution(self, model: nn.Module) -> nn.Conv2d | None:
        """The module of the first layer, in the network or a copy of it; None if its weights are
        not shared.
        """
        module = model.get_submodule(self.first.module)
        if isinstance(module, nn.Conv2d):
            return module
        return None

    def write(self, figure: Any, rows: Rows, stem: str) -> None:
        """A figure and its numbers."""
        write(figure, rows, self.args.out, stem)


def left_out(what: str, why: str) -> None:
    """Print that something is not in the figures."""
    print(f"{what}: left out, {why}", file=sys.stderr)


# --- sparse interactions, shared parameters


def sharing(subject: Subject, counts: dict[str, Connections]) -> None:
    """Connections and parameters of each layer as it is, unshared, and fully connected."""
    names = dict.fromkeys(layer.module for layer in subject.layers)
    shown = {name: counts[name] for name in names}
    figure = figures.sharing(shown, heading=heading_of(subject.args))
    subject.write(figure, [own.row() for own in shown.values()], "sharing")


# --- strides


def strides(subject: Subject) -> None:
    """The network with its first layer moved by 1, 2 and 4 pixels."""
    if subject.convolution(subject.model) is None:
        left_out("strides", f"{subject.first} is no Conv2d, and its stride cannot be changed")
        return
    networks = {}
    for stride in STRIDES:
        try:
            networks[stride] = with_stride(subject, stride)
        except ModelError as error:
            left_out(f"stride {stride}", str(error))
    if not networks:
        left_out("strides", f"the network takes none of {', '.join(map(str, STRIDES))}")
        return
    # the same map in each: the one with the largest response at the first stride
    channel = strongest(next(iter(networks.values())).map)
    variants = [replace(network, map=network.map[channel]) for network in networks.values()]
    figure = figures.strides(subject.image, variants, heading=heading_of(subject.args))
    subject.write(figure, stride_rows(variants), "strides")


def with_stride(subject: Subject, stride: int) -> Strided:
    """A copy of the network with another stride; as yet with all maps of its first layer, (c, h, w).

    Raises:
        ModelError: the rest of the network does not take what the first layer then gives.
    """
    network = deepcopy(subject.model)
    convolution = subject.convolution(network)
    assert convolution is not None  # the caller has looked
    convolution.stride = (stride, stride)
    channels, height, width = subject.image.shape
    shape = (channels, height, width)
    names = {layer.name for layer in (subject.first, *subject.layers)}
    net = anatomy(network, shape, only=sorted(names))
    layers = [layer for layer in net.values() if layer.name in names and layer.has_maps]
    operations = sum(own.operations for own in connections(network, shape).values())
    first = net[subject.first.name]
    maps = subject.maps(network, [first], subject.image)[first.name]
    return Strided(stride, layers, operations, maps)


def stride_rows(variants: Sequence[Strided]) -> list[dict[str, Any]]:
    """A row for each stride and layer."""
    rows = []
    for variant in variants:
        for layer in variant.layers:
            height, width = layer.map_size
            row = {
                "stride of first layer": variant.stride,
                "operations": variant.operations,
                "layer": layer.name,
                "map height": height,
                "map width": width,
                "receptive field": max(layer.field.size),
                "receptive field stride": layer.field.stride[0],
            }
            rows.append(row)
    return rows


def strongest(maps: Tensor) -> int:
    """The channel of (c, h, w) with the largest response."""
    return int(maps.amax(dim=(1, 2)).argmax())


# --- many filters


def filters(subject: Subject) -> None:
    """Many filters of the first layer, and their maps of one image."""
    convolution = subject.convolution(subject.model)
    if convolution is None:
        left_out("filters", f"{subject.first} has other filters at every position")
        return
    maps = subject.maps(subject.model, [subject.first], subject.image)[subject.first.name]
    order = maps.abs().amax(dim=(1, 2)).argsort(descending=True, stable=True)
    order = order[: subject.args.filters]
    weights = convolution.weight.detach().float().cpu()[order]
    figure = figures.filters_and_maps(
        subject.image,
        weights,
        order.tolist(),
        maps[order],
        heading=f"{heading_of(subject.args)}, {subject.first}",
    )
    subject.write(figure, filter_rows(order.tolist(), weights, maps[order]), "filters")


def filter_rows(channels: Sequence[int], weights: Tensor, maps: Tensor) -> list[dict[str, Any]]:
    """A row for each filter."""
    rows = []
    for channel, weight, plane in zip(channels, weights, maps, strict=True):
        row = {
            "filter": channel,
            "root mean square": float(weight.square().mean().sqrt()),
            "largest": float(plane.max()),
            "smallest": float(plane.min()),
            "share above zero": float((plane > 0).double().mean()),
        }
        rows.append(row)
    return rows


# --- inputs of any size


@dataclass(frozen=True)
class Sized:
    """The picture at one size, and what the network makes of it.

    Attributes:
        side: the shorter side of the picture in pixels.
        picture: (c, h, w) in [0, 1].
        maps: by layer, (c, h, w).
    """

    side: int
    picture: Tensor
    maps: dict[str, Tensor]


def sizes(subject: Subject) -> None:
    """One network, the same picture at several sizes."""
    results = []
    sides = subject.args.sizes or usual_sides(subject.image)
    for side in sorted(set(sides)):
        picture = resized(subject.image, side)
        try:
            results.append(Sized(side, picture, maps_at(subject, picture)))
        except FeatvizError as error:
            height, width = picture.shape[-2:]
            left_out(f"size {height} x {width}", str(error))
    if not results:
        given = ", ".join(map(str, sides))
        raise ModelError(f"the network takes none of the sizes {given}: give others (--sizes)")
    channels = {name: strongest_of_all(results, name) for name in results[0].maps}
    shown = {
        f"{name}, map {channel}": [result.maps[name][channel] for result in results]
        for name, channel in channels.items()
    }
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    figure = figures.map_sizes(
        [result.picture for result in results],
        shown,
        heading=heading_of(subject.args),
        note=f"The same {parameters:,} parameters at every size: "
        "a larger image has larger maps, no other filters.",
    )
    subject.write(figure, size_rows(results, channels, parameters), "sizes")


def usual_sides(image: Tensor) -> list[int]:
    """Sides around the one that the image has."""
    usual = min(image.shape[-2:])
    return [max(SMALLEST, round(usual * scale)) for scale in SCALES]


def resized(image: Tensor, side: int) -> Tensor:
    """An image (c, h, w) whose shorter side is so many pixels long."""
    usual = min(image.shape[-2:])
    size = [round(length * side / usual) for length in image.shape[-2:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def maps_at(subject: Subject, picture: Tensor) -> dict[str, Tensor]:
    """The maps of the layers that are asked for, by layer.

    Raises:
        ModelError: the network does not take a picture of this size.
    """
    channels, height, width = picture.shape
    net = anatomy(subject.model, (channels, height, width), only=[])
    layers = net.select([layer.name for layer in subject.layers])
    return subject.maps(subject.model, layers, picture)


def strongest_of_all(results: Sequence[Sized], name: str) -> int:
    """The channel of a layer that responds most at all sizes together."""
    peaks = torch.stack([result.maps[name].amax(dim=(1, 2)) for result in results])
    return int(peaks.sum(dim=0).argmax())


def size_rows(
    results: Sequence[Sized], channels: Mapping[str, int], parameters: int
) -> list[dict[str, Any]]:
    """A row for each size and layer."""
    rows = []
    for result in results:
        for name, maps in result.maps.items():
            row = {
                "input": result.side,
                "layer": name,
                "map": channels[name],
                "map height": maps.shape[1],
                "map width": maps.shape[2],
                "parameters": parameters,
            }
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
