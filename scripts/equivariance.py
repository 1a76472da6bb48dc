"""Equivariance (the lecture on convolution): f(g(x)) against g(f(x)), layer by layer, for shifts,
turns and scales.

    python scripts/equivariance.py                                # zfmini, synthetic images
    python scripts/equivariance.py --model alexnet --weights DEFAULT --images photos/ --layers
    features.0,features.3

Convolution moves along exactly with translations by its stride. Beside the layers stands one of the
first one's shape whose weights are not shared, random ones of their own at every position: it moves
along with nothing. Computed in 64 bits, where zero is seen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from math import isfinite

import choose
import torch
from shared import parser, run, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import LayerInfo, Rotate, Scale, Translate, anatomy, equivariance, figures
from featviz.cli.arguments import images_from, model_from, positive
from featviz.errors import UsageError
from featviz.models import LocallyConnected2d

UNTIED = "locally connected"
SYNTHETIC = 160  # pixels: more than the model is used at, so that deep layers too have positions that see no border


def main(args: argparse.Namespace) -> None:
    if args.images is None and args.input_size is None and args.model == "zfmini":
        args.input_size = SYNTHETIC
    model = model_from(args).double()
    images = images_from(args, model, synthetic=40)
    x = choose.inputs(model, images, choose.some(images, args.show, args.seed))
    infos = [
        info
        for info in choose.taking_part(model, images, args.layers)
        if len(info.shape) == 3 and info.field.kind != "global"
    ]
    if not infos:
        raise UsageError(
            f"--layers {args.layers}: every one of them sees the whole image at each position"
        )
    infos = (
        infos
        if len(infos) <= args.most
        else [infos[i * (len(infos) - 1) // (args.most - 1)] for i in range(args.most)]
    )
    untied, info = locally_connected(infos[0], x, args.seed)
    plans: dict[str, tuple[list[float], Callable[[float], Translate | Rotate | Scale]]] = {
        "translation (pixels)": ([float(v) for v in range(args.reach + 1)], Translate),
        "rotation (degrees)": ([float(v) for v in (0, 2, 5, 10, 15, 20, 30, 45, 60, 90)], Rotate),
        "scale (ratio)": ([0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4], Scale),
    }
    panels, rows = {}, []
    with tqdm(
        desc="transforms", total=sum(len(values) for values, _ in plans.values()), leave=False
    ) as bar:
        for title, (values, transform) in plans.items():
            errors: dict[str, list[float]] = {one.name: [] for one in infos} | {UNTIED: []}
            for value in values:
                found = equivariance(
                    model,
                    x,
                    [one.name for one in infos],
                    transform(value),
                    batch_size=args.batch_size,
                )
                found[UNTIED] = equivariance(
                    untied, x, ["0"], transform(value), batch_size=args.batch_size
                )["0"]
                for name, error in found.items():
                    errors[name].append(error)
                    rows.append(
                        {
                            "transform": title,
                            "value": value,
                            "layer": name,
                            "error": error if isfinite(error) else "",
                        }
                    )
                bar.update()
            panels[title] = (values, errors)
    strides = {
        one.name: f"stride {one.field.stride[0]}" for one in [*infos, replace(info, name=UNTIED)]
    }
    write(figures.equivariance(panels, strides, heading=args.model), rows, args.out, "equivariance")


def locally_connected(info: LayerInfo, x: Tensor, seed: int) -> tuple[nn.Module, LayerInfo]:
    """A layer of the geometry of ``info`` on images like x, 8 maps, with weights of its own at
    every position.
    """
    (size, _), (stride, _), (padding, _) = info.field.size, info.field.stride, info.field.padding
    torch.manual_seed(seed)
    layer = LocallyConnected2d(
        x.shape[1], 8, (x.shape[2], x.shape[3]), size, int(stride), max(0, int(padding))
    )
    untied = nn.Sequential(layer).to(x)
    return untied, anatomy(untied, (x.shape[1], x.shape[2], x.shape[3]))["0"]


arguments = parser(__doc__, "equivariance")
arguments.add_argument(
    "--show",
    type=positive,
    default=4,
    metavar="N",
    help="images that are measured together (default: 4)",
)
arguments.add_argument(
    "--reach", type=positive, default=16, metavar="PIXELS", help="largest translation (default: 16)"
)
arguments.add_argument(
    "--most",
    type=positive,
    default=7,
    metavar="N",
    help="at most N layers, evenly spread (default: 7)",
)

if __name__ == "__main__":
    sys.exit(run(main, arguments))
