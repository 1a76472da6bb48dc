"""Every layer of six networks, in float64: does a projection from a crop equal that from the full
image?

    python benchmarks/crops.py                         # the table of docs/right.md
    python benchmarks/crops.py --models alexnet,resnet18

For each layer that has a map, one unit is projected at an interior, a border and a corner position
under the deconvnet rule, from the crop that featviz takes, and compared with the backward pass of
one forward pass of the full image, in which an oracle has replaced every rectifier at the function
level (tests/oracles.py). Prints the number of layers, how many of them are computed on less than
the image, and the largest difference, relative to the largest magnitude of the full image's
projection."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from differences import Differences
from oracles import Rectifiers
from torchvision_models import build

from featviz import Layer, anatomy, capture, load_model, project
from featviz.fields.crop import crop_for

MODELS = ("alexnet", "vgg16", "squeezenet1_1", "resnet18", "googlenet", "zfnet")
SIDE = 224  # pixels
CHANNEL = 7
ALLOWED = 1e-10  # the largest relative difference that is rounding
HEADS = ("model", "layers", "on crops", "comparisons", "largest relative difference", "seconds")


@dataclass
class Comparison:
    """One model: how many layers, how many of them are computed on crops, and how far projections
    are from those of the full image.
    """

    layers: int = 0
    on_crops: int = 0
    differences: Differences = field(default_factory=Differences)


def compare(model: nn.Module) -> Comparison:
    """Project a unit of every layer at several positions, from crops and from the full image."""
    image = torch.randn(3, SIDE, SIDE, dtype=torch.float64)
    net = anatomy(model, (3, SIDE, SIDE), only=[])
    layers = [layer for layer in net.values() if layer.has_maps]
    leaf, outputs = on_full_image(model, image, layers)
    result = Comparison(layers=len(layers))
    for layer in layers:
        crops = [crop_for(layer.field, y, x, (SIDE, SIDE)) for y, x in positions(layer)]
        result.on_crops += any(crop is not None for crop in crops)
        for position in positions(layer):
            unit = layer.unit(CHANNEL % layer.channels, at=position)
            response = outputs[layer.name][0, unit.channel][position]
            (expected,) = torch.autograd.grad(response, leaf, retain_graph=True)
            result.differences.add(project(model, image, unit, net=net)[0], expected[0])
    return result


def on_full_image(
    model: nn.Module, image: Tensor, layers: list[Layer]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image (1, c, h, w) as a leaf, and every layer's output on the graph of one forward pass
    with the oracle's rectifiers.
    """
    leaf = image[None].clone().requires_grad_()
    with Rectifiers("deconvnet"), capture(model, layers) as acts:
        model(leaf)
        outputs = dict(acts)
    return leaf, outputs


def positions(layer: Layer) -> list[tuple[int, int]]:
    """Interior, border and corner of a layer's map, each once."""
    height, width = layer.map_size
    interior = height // 2, width // 3
    border = 0, width // 2
    corner = height - 1, width - 1
    return list(dict.fromkeys([interior, border, corner]))


def model_of(name: str) -> nn.Module:
    """A network in float64 with random weights."""
    torch.manual_seed(0)
    if name == "zfnet":
        return load_model(name, "initial", device="cpu").double().eval()
    return build(name).double()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = ",".join(MODELS)
    parser.add_argument("--models", default=names, help=f"names with commas (default: {names})")
    return parser


def main() -> None:
    names = arguments().parse_args().models.split(",")
    print(f"| {' | '.join(HEADS)} |")
    print("| --- " * len(HEADS) + "|")
    failed = []
    silent = 0
    for name in names:
        model = model_of(name)
        start = time.perf_counter()
        result = compare(model)
        seconds = time.perf_counter() - start
        differences = result.differences
        silent += differences.silent
        print(
            f"| {name} | {result.layers} | {result.on_crops} | {len(differences)} "
            f"| {differences.largest:.1e} | {seconds:.0f} |",
            flush=True,
        )
        if not differences.within(ALLOWED):
            failed.append(name)
    print(f"\n{len(names)} models, {len(failed)} above {ALLOWED}: {', '.join(failed) or 'none'}")
    print(f"{silent} of the projections are 0 everywhere")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
