"""Every model of torchvision against an independent oracle: is a projection right on all of them?

    python benchmarks/torchvision_models.py            # all classifiers: an hour on two cores
    python benchmarks/torchvision_models.py --family all --side 96 --double
    python benchmarks/torchvision_models.py --models resnet18,vgg11

For each model, units of several layers are projected under the three rules, and compared with an
oracle that replaces every rectifier in the forward pass at the function level (tests/oracles.py).
Weights are random, with random batch statistics so that no layer is degenerate. Prints a table in
Markdown: calls of rectifiers and their relatives, comparisons made, and the largest difference,
relative to the largest magnitude of the oracle's projection; or, where featviz refuses, what it
says. float32 rounding is 1e-7 for one operation. A video model is given one image as every frame,
and a model of optical flow the image and its mirror image."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from differences import Differences
from oracles import Rectifiers, projection

from featviz import Layer, Unit, anatomy, project
from featviz.errors import FeatvizError, LayerError, first_line
from featviz.fields.anatomy import Anatomy

RULES = ("gradient", "deconvnet", "guided")
SIDES = {"inception_v3": 299}  # pixels
SIDE = 224  # of all others
ALLOWED = 1e-3  # the largest relative difference that is rounding
WITHOUT_INITIAL = ("googlenet", "inception_v3")  # whose own initialisation takes minutes
FAMILIES = {
    "classification": torchvision.models,
    "quantization": torchvision.models.quantization,
    "segmentation": torchvision.models.segmentation,
    "detection": torchvision.models.detection,
    "video": torchvision.models.video,
    "optical_flow": torchvision.models.optical_flow,
}
LEAST = {"mvit": 224, "s3d": 224, "raft": 128}  # pixels that models of these names need
FRAMES = {"mvit": 16, "s3d": 16}  # that models of these names need
FEWEST = 8  # frames of the other video models
HEADS = ("model", "activations", "comparisons", "largest relative difference", "seconds")


class Clip(nn.Module):
    """A video model that is given one image as every frame."""

    def __init__(self, model: nn.Module, frames: int) -> None:
        super().__init__()
        self.model = model
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, :, None].repeat(1, 1, self.frames, 1, 1)
        logits: Tensor = self.model(frames)
        return logits


class Pair(nn.Module):
    """A model of optical flow that is given an image and its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x, x.flip(-1), num_flow_updates=1)


def family_of(name: str) -> str:
    """The family that a model belongs to."""
    for family in FAMILIES:
        if name in members(family):
            return family
    raise SystemExit(f"torchvision has no model {name!r}")


def members(family: str) -> list[str]:
    """The names of a family's models."""
    return list(torchvision.models.list_models(module=FAMILIES[family]))


def of_prefix(name: str, values: dict[str, int], default: int) -> int:
    """The value for a model whose name starts so."""
    for prefix, value in values.items():
        if name.startswith(prefix):
            return value
    return default


def options_of(name: str, family: str, side: int) -> dict[str, Any]:
    """What builds a model of its family without a download, and keeps its images small."""
    options: dict[str, Any] = {"weights": None}
    if name.removeprefix("quantized_") in WITHOUT_INITIAL:
        options["init_weights"] = False
    if family in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if family == "detection" and not name.startswith("ssd"):
        options.update(min_size=side, max_size=side)
    return options


def build(name: str, family: str = "classification", side: int = SIDE) -> nn.Module:
    """The model with seeded random weights, and batch statistics as if it had seen data."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = torchvision.models.get_model(name, **options_of(name, family, side))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, 0.02)  # torchvision starts ViT's head at zero
    if family == "video":
        model = Clip(model, of_prefix(name, FRAMES, FEWEST))
    if family == "optical_flow":
        model = Pair(model)
    return model.eval()


@dataclass
class Comparison:
    """One model.

    Attributes:
        activations: rectifiers that the oracle replaced.
        differences: from the oracle's projections.
        note: why rules were left out, if some were.
    """

    activations: int = 0
    differences: Differences = field(default_factory=Differences)
    note: str = ""

    def row(self, name: str, seconds: float) -> str:
        """A line of the table."""
        cells = [name, str(self.activations), str(len(self.differences))]
        cells += [f"{self.differences.largest:.1e}", f"{seconds:.0f}"]
        return f"| {' | '.join(cells)} | {self.note}".rstrip()


def compare(name: str, layers: int, units: int, side: int, double: bool) -> Comparison:
    """Project units of several layers under every rule, with featviz and with the oracle."""
    family = family_of(name)
    side = max(SIDES.get(name, side), of_prefix(name, LEAST, side))
    model = build(name, family, side)
    image = torch.randn(3, side, side, generator=torch.Generator().manual_seed(1))
    if double:
        model, image = model.double(), image.double()
    result = Comparison()
    try:
        net = anatomy(model, (3, side, side), only=[])
    except FeatvizError as error:
        result.note = first_line(error)
        return result
    result.activations = activations(model, image)
    result.note = without_units(net)
    chosen = spread(list(net.values()), layers)
    net = anatomy(
        model, (3, side, side), only=chosen
    )  # fields are measured once, not for each rule
    for layer in chosen:
        for unit in units_of(layer, units):
            compare_unit(model, image, net, unit, result)
    return result


def without_units(net: Anatomy) -> str:
    """What featviz says of the first convolution whose channels are no units; empty without one."""
    for layer in net.values():
        if layer.kind.startswith("Conv3d") and not layer.has_units:
            try:
                net.layer_of(Unit(layer.name, 0))
            except LayerError as error:
                return first_line(error)
    return ""


def compare_unit(
    model: nn.Module, image: Tensor, net: Anatomy, unit: Unit, result: Comparison
) -> None:
    """Project one unit under every rule; what featviz refuses becomes the note."""
    for rule in RULES:
        try:
            values = project(model, image, unit, rule=rule, net=net)[0]
        except LayerError:  # a table of relative positions, say, which no image changes
            continue
        except FeatvizError as error:
            result.note = first_line(error)
            continue
        position = unit.at if isinstance(unit.at, tuple) else (0, 0)
        expected = projection(model, image, str(unit.layer), unit.channel, position, rule)
        result.differences.add(values, expected)


def activations(model: nn.Module, image: Tensor) -> int:
    """How many rectifiers and their relatives a forward pass calls."""
    with Rectifiers("gradient") as rectifiers, torch.no_grad():
        model(image[None])
    return int(rectifiers.replaced)


def spread(layers: list[Layer], n: int) -> list[Layer]:
    """n layers with maps, or vectors of all tokens together, spread evenly over the depth, and the
    last.
    """
    # the oracle looks for channels in the second axis
    usable = [layer for layer in layers if layer.has_units and layer.layout == "nchw"]
    last = len(usable) - 1
    chosen = [usable[round(i * last / n)] for i in range(1, n + 1)]
    return list(dict.fromkeys(chosen))


def units_of(layer: Layer, n: int) -> list[Unit]:
    """n units of a layer, at positions spread over its map."""
    height, width = layer.map_size
    units = []
    for i in range(n):
        position = None
        if layer.has_maps:
            position = height * (i + 1) // (n + 1), width // 2
        units.append(layer.unit(7 * i % layer.channels, at=position))
    return units


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", help="names with commas (default: all of the family)")
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="classification")
    parser.add_argument("--side", type=int, default=SIDE, help=f"pixels (default: {SIDE})")
    parser.add_argument("--double", action="store_true", help="in float64")
    parser.add_argument("--layers", type=int, default=3, help="layers of each model (default: 3)")
    parser.add_argument("--units", type=int, default=1, help="units of each layer (default: 1)")
    return parser


def names_of(args: argparse.Namespace) -> list[str]:
    """The models that are asked for."""
    if args.models:
        return str(args.models).split(",")
    if args.family != "all":
        return members(args.family)
    names = []
    for family in FAMILIES:
        names += members(family)
    return names


def main() -> None:
    args = arguments().parse_args()
    names = names_of(args)
    print(f"| {' | '.join(HEADS)} |")
    print("| --- " * len(HEADS) + "|", flush=True)
    failed = []
    refused = []
    silent = 0
    began = time.perf_counter()
    for name in names:
        start = time.perf_counter()
        result = compare(name, args.layers, args.units, args.side, args.double)
        print(result.row(name, time.perf_counter() - start), flush=True)
        silent += result.differences.silent
        if result.differences.relative and not result.differences.within(ALLOWED):
            failed.append(name)
        if not result.differences.relative:
            refused.append(name)
    counted = f"{len(names)} models, {len(failed)} that differ by more than rounding"
    print(f"\n{counted}: {', '.join(failed) or 'none'}")
    print(f"nothing to compare: {', '.join(refused) or 'none'}")
    print(
        f"{silent} of the projections are 0 everywhere; {time.perf_counter() - began:.0f} seconds"
    )
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
