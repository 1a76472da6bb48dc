"""Attributions and projections of the most probable class, side by side.

    python scripts/attributions.py                                # zfmini, synthetic images
    python scripts/attributions.py --model alexnet --weights DEFAULT --images photos/ --show 3

A row for each image, a column for each method and for each backward rule. Grad-CAM reads the last
convolution, or the last of --layers. A method or a rule that has no meaning on the model is left out,
and the reason printed. The table has the sum of each attribution over the image."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import choose
from classes import add_classes, named
from shared import heading_of, images_from, model_from, parser, positive, run, write
from torch import Tensor

from featviz import anatomy, attribute, figures, project
from featviz.errors import UsageError
from featviz.methods.attribute import METHODS
from featviz.rules import RULES


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "attributions", layers=None, usual="the last convolution")
    add_classes(result)
    result.add_argument(
        "--show", type=positive, default=4, metavar="N", help="images in the figure (default: 4)"
    )
    result.add_argument(
        "--methods",
        metavar="METHODS",
        default=",".join(METHODS),
        help=f"methods, separated by commas (default: {','.join(METHODS)})",
    )
    choose.add_rules(result, ["deconvnet", "guided"])
    result.add_argument(
        "--steps",
        type=positive,
        default=50,
        metavar="N",
        help="of integrated gradients (default: 50)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Choose images, attribute and project the class of each, draw."""
    model = model_from(args)
    methods = choose.named(args.methods, METHODS, "--methods")
    rules = choose.named(args.rule, RULES, "--rule")
    images = named(args, images_from(args, model, synthetic=200))
    indices = choose.some(images, args.show, args.seed)
    classes = choose.classes_of(args, model, images)
    if classes is None:
        raise UsageError("attributions are of the most probable class, and the model has none")
    channels, height, width = images[0].shape
    net = anatomy(model, (channels, height, width), only=[])
    x = choose.inputs(model, images, indices)
    top, probabilities = choose.most_probable(model, x)
    units = [choose.output_of(net, len(classes)).unit(index) for index in top]
    layer = None if args.layers is None else choose.with_maps(net, args.layers)[-1]

    def attributed(name: str) -> Tensor:
        options: dict[str, Any] = {"layer": layer} if name == "grad_cam" else {}
        return attribute(
            model, x, units, method=name, preprocess=images.preprocess, steps=args.steps, **options
        )

    def projected(name: str) -> Tensor:
        return project(model, x, units, rule=name)

    maps = choose.columns(methods, attributed)
    signals = choose.columns(rules, projected)
    names = []
    table = []
    for row, i in enumerate(indices):
        label = classes[top[row]]
        names.append(f"{choose.name_of(images, i)}: {label}, {probabilities[row]:.0%}")
        measured = {name: float(values[row].sum()) for name, values in maps.items()}
        table.append({"image": images.keys[i], "class": label} | measured)
    pixels = choose.stacked(images, indices)
    figure = figures.attributions(
        pixels, maps, projections=signals, names=names, heading=heading_of(args)
    )
    write(figure, table, args.out, "attributions")


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
