"""Equivariance (the lecture on convolution): f(g(x)) against g(f(x)), layer by layer, for shifts,
turns and scales.

    python scripts/equivariance.py                                # zfmini, synthetic images
    python scripts/equivariance.py --model alexnet --weights DEFAULT --images photos/ --most 5

Convolution moves along exactly with translations by its stride. Beside the layers stands a locally
connected layer of the shape of the first, with random weights of its own at every position: it is
equivariant to nothing. Computed in 64 bits, so that zero can be distinguished from rounding."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import choose
import torch
from shared import heading_of, images_from, model_from, parser, positive, run, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Layer, Rotate, Scale, Translate, anatomy, equivariance, figures
from featviz.errors import LayerError
from featviz.models import LocallyConnected2d

UNSHARED = "locally connected"
"""What the layer without shared weights is called beside the others."""
# pixels: more than the model is used at, so that deep layers too have positions that see no border
SYNTHETIC = 160
ANGLES = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0)
RATIOS = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4)

Affine = Translate | Rotate | Scale


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "equivariance")
    result.add_argument(
        "--show",
        type=positive,
        default=4,
        metavar="N",
        help="images that are measured together (default: 4)",
    )
    result.add_argument(
        "--reach",
        type=positive,
        default=16,
        metavar="PIXELS",
        help="largest translation (default: 16)",
    )
    result.add_argument(
        "--most",
        type=positive,
        default=7,
        metavar="N",
        help="at most N layers, evenly spread (default: 7)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Transform images by more and more, measure every layer's error, draw."""
    if args.images is None and args.input_size is None and args.model == "zfmini":
        args.input_size = (SYNTHETIC, SYNTHETIC)
    model = model_from(args).double()
    images = images_from(args, model, synthetic=40)
    x = choose.inputs(model, images, choose.some(images, args.show, args.seed))
    net = choose.anatomy_of(model, images, args.layers)
    layers = choose.spread(movable(net.select(args.layers), args.layers), args.most)
    measured = Measured(model, layers, locally_connected(layers[0], x, args.seed), x)
    panels = {}
    rows = []
    for plan in tqdm(plans(args.reach), desc="transforms", leave=False):
        errors = measured.under(plan, args.batch_size)
        panels[plan.title] = (plan.values, errors)
        rows += table(plan, errors)
    figure = figures.equivariance(panels, strides(measured), heading=heading_of(args))
    write(figure, rows, args.out, "equivariance")


def movable(layers: list[Layer], given: str) -> list[Layer]:
    """Those whose maps can move with the image.

    Raises:
        LayerError: there are none.
    """
    chosen = [layer for layer in layers if layer.has_maps and layer.field.is_local]
    if not chosen:
        raise LayerError(f"layers {given!r}: each of them sees the full image at every position")
    return chosen


@dataclass(frozen=True)
class Plan:
    """One kind of transform, and its values from none to much of it."""

    title: str
    transform: Callable[[float], Affine]
    values: list[float]


def plans(reach: int) -> list[Plan]:
    """Shifts up to so many pixels, turns, scales."""
    shifts = [float(pixels) for pixels in range(reach + 1)]
    return [
        Plan("translation (pixels)", Translate, shifts),
        Plan("rotation (degrees)", Rotate, list(ANGLES)),
        Plan("scale (ratio)", Scale, list(RATIOS)),
    ]


@dataclass(frozen=True)
class Measured:
    """The layers that are measured on images x, and the model of one layer without shared weights."""

    model: nn.Module
    layers: list[Layer]
    unshared: nn.Module
    x: Tensor

    def under(self, plan: Plan, batch_size: int) -> dict[str, list[float]]:
        """By layer the error at each value; nan where there is nothing to compare."""
        errors: dict[str, list[float]] = {layer.name: [] for layer in self.layers}
        errors[UNSHARED] = []
        for value in plan.values:
            transform = plan.transform(value)
            result = equivariance(self.model, self.x, self.layers, transform, batch_size=batch_size)
            unshared = equivariance(self.unshared, self.x, "0", transform, batch_size=batch_size)
            for name, error in result.items():
                errors[name].append(error)
            errors[UNSHARED].append(unshared["0"])
        return errors

    def unshared_layer(self) -> Layer:
        """The layer without shared weights."""
        channels, height, width = self.x.shape[1:]
        return anatomy(self.unshared, (channels, height, width))["0"]


def locally_connected(layer: Layer, x: Tensor, seed: int) -> nn.Module:
    """A model of one layer on images like x: of the geometry of ``layer``, 8 maps, and weights of
    its own at every position.
    """
    _, channels, height, width = x.shape
    stride = max(1, int(layer.field.stride[0]))
    padding = max(0, int(layer.field.padding[0]))
    torch.manual_seed(seed)  # of the weights
    unshared = LocallyConnected2d(
        channels, 8, (height, width), layer.field.size[0], stride, padding
    )
    return nn.Sequential(unshared).to(x)


def strides(measured: Measured) -> dict[str, str]:
    """What the legend says of each layer."""
    words = {layer.name: f"stride {layer.field.stride[0]}" for layer in measured.layers}
    words[UNSHARED] = f"stride {measured.unshared_layer().field.stride[0]}"
    return words


def table(plan: Plan, errors: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each value and layer; no error where there is nothing to compare."""
    rows = []
    for i, value in enumerate(plan.values):
        for name, own in errors.items():
            row: dict[str, Any] = {"transform": plan.title, "value": value, "layer": name}
            row["error"] = ""
            if isfinite(own[i]):
                row["error"] = own[i]
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
