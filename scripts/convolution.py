"""What convolution is, on any network: sparse interactions, shared parameters, strides, many
filters, inputs of any size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from shared import parser, run, write
from torch import Tensor, nn

from featviz import Connections, anatomy, capture, connections, figures, layers
from featviz.cli.arguments import images_from, model_from, numbers, positive
from featviz.errors import FeatvizError, LayerError, ModelError
from featviz.fields.anatomy import parameter_of
from featviz.hooks import evaluating
from featviz.images import Images

STRIDES = (1, 2, 4)
SCALES = (2 / 3, 1, 4 / 3, 2)


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "convolution")
    found.add_argument(
        "--filters",
        type=positive,
        default=32,
        metavar="N",
        help="filters of the first layer (default: 32)",
    )
    found.add_argument(
        "--sizes",
        type=numbers,
        help="sides of the inputs of figure 4 (default: 2/3, 1, 4/3 and 2 of the usual)",
    )
    return found


def main(args: argparse.Namespace) -> None:
    """Four figures: sharing, strides, filters, sizes."""
    model = model_from(args)
    images = images_from(args, model, synthetic=8)
    image = images[0]
    found = connections(model, _shape(image))
    names = [name for name in layers(model, args.layers) if name in found]
    if not names:
        raise LayerError(
            f"layers {args.layers!r}: none of them is a convolution; the first of this model is {next(iter(found))!r}"
        )
    write(
        figures.sharing({name: found[name] for name in names}, heading=args.model),
        [_row(found[name]) for name in names],
        args.out,
        "sharing",
    )
    first = next(iter(found))
    _strides(args, model, images, first, names)
    _filters(args, model, images, first)
    _sizes(args, model, images, names)


def _row(one: Connections) -> dict[str, Any]:
    return {
        key: "x".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in asdict(one).items()
    }


def _strides(
    args: argparse.Namespace, model: nn.Module, images: Images, first: str, names: Sequence[str]
) -> None:
    """The network with its first layer moved by 1, 2 and 4 pixels."""
    image, variants = images[0], []
    channel: int | None = None
    for stride in STRIDES:
        network = deepcopy(model)
        layer = network.get_submodule(first)
        if not isinstance(layer, nn.Conv2d):
            print(
                f"strides: left out, {first} is no Conv2d, and its stride cannot be changed",
                file=sys.stderr,
            )
            return
        layer.stride = (stride, stride)
        try:
            infos = anatomy(network, _shape(image), only={first, *names})
            operations = sum(one.operations for one in connections(network, _shape(image)).values())
        except ModelError as error:
            print(f"strides: stride {stride} is left out ({error})", file=sys.stderr)
            continue
        maps = _maps(network, images, 0, [first])[first]
        channel = int(maps.amax(dim=(1, 2)).argmax()) if channel is None else channel
        used = [
            info for info in infos.values() if info.name in {first, *names} and len(info.shape) == 3
        ]
        variants.append(figures.Strided(stride, used, operations, maps[channel]))
    title = f"{args.model}: {first} moved by {', '.join(str(v.stride) for v in variants)} pixels"
    rows = [
        {
            "stride of first layer": one.stride,
            "operations": one.operations,
            "layer": info.name,
            "map height": info.shape[1],
            "map width": info.shape[2],
            "receptive field": max(info.field.size),
            "receptive field stride": info.field.stride[0],
        }
        for one in variants
        for info in one.layers
    ]
    write(figures.strides(image, variants, title=title), rows, args.out, "strides")


def _filters(args: argparse.Namespace, model: nn.Module, images: Images, first: str) -> None:
    """Many filters and their maps of one image."""
    maps = _maps(model, images, 0, [first])[first]
    layer: Any = model.get_submodule(first)
    if not isinstance(layer, nn.Conv2d):
        print(f"filters: left out, {first} has other filters at every place", file=sys.stderr)
        return
    order = maps.abs().amax(dim=(1, 2)).argsort(descending=True, stable=True)[: args.filters]
    weights = layer.weight.detach().cpu()[order]
    title = f"{args.model}: {first}, {len(order)} of {len(maps)} filters ({weights.shape[-2]} x {weights.shape[-1]}) and their maps"
    rows = [
        {
            "filter": channel,
            "root mean square": float(weight.square().mean().sqrt()),
            "largest": float(plane.max()),
            "smallest": float(plane.min()),
            "share above zero": float((plane > 0).double().mean()),
        }
        for channel, weight, plane in zip(order.tolist(), weights, maps[order], strict=True)
    ]
    write(
        figures.filters_and_maps(images[0], weights, order.tolist(), maps[order], title=title),
        rows,
        args.out,
        "filters",
    )


def _sizes(
    args: argparse.Namespace, model: nn.Module, images: Images, names: Sequence[str]
) -> None:
    """One network, the same picture at several sizes."""
    image = images[0]
    usual = min(image.shape[-2:])
    sides = args.sizes or [max(8, round(usual * scale)) for scale in SCALES]
    taken, infos, pictures = [], [], []
    for side in sorted(set(sides)):
        size = [round(length * side / usual) for length in image.shape[-2:]]
        picture = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        try:
            infos.append(anatomy(model, _shape(picture), only=set(names)))
        except FeatvizError:
            print(
                f"sizes: the network does not take {size[0]} x {size[1]}, which is left out",
                file=sys.stderr,
            )
            continue
        taken.append(side)
        pictures.append(picture)
    if not pictures:
        raise ModelError(
            f"the network takes none of the sizes {', '.join(map(str, sides))}: give others (--sizes)"
        )
    shown = [name for name in names if name in infos[0]]
    read = [_maps_of(model, images.preprocess.normalise(picture), shown) for picture in pictures]
    channels = {
        name: int(sum(maps[name].amax(dim=(1, 2)) for maps in read).argmax()) for name in shown
    }  # type: ignore[union-attr]
    maps = {f"{name}": [one[name][channels[name]] for one in read] for name in shown}
    parameters = sum(p.numel() for p in model.parameters())
    note = f"the same {parameters:,} parameters at every size: a larger image has larger maps, no other filters"
    rows = [
        {
            "input": side,
            "layer": name,
            "map height": info[name].shape[1],
            "map width": info[name].shape[2],
            "parameters": parameters,
        }
        for side, info in zip(taken, infos, strict=True)
        for name in shown
    ]
    write(
        figures.map_sizes(
            pictures, maps, title=f"{args.model} on one picture at {len(taken)} sizes", note=note
        ),
        rows,
        args.out,
        "sizes",
    )


def _maps(model: nn.Module, images: Images, index: int, names: Sequence[str]) -> dict[str, Tensor]:
    return _maps_of(model, images.preprocess.normalise(images[index]), names)


def _maps_of(model: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What layers give for one image in model space, (c, h, w) each."""
    with torch.no_grad(), evaluating(model), capture(model, names) as acts:
        model(x[None].to(parameter_of(model)))
    return {name: acts[name][0].float().cpu() for name in names}


def _shape(image: Tensor) -> tuple[int, int, int]:
    return int(image.shape[0]), int(image.shape[1]), int(image.shape[2])


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
