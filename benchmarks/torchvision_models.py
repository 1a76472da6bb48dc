"""Every classifier of torchvision against an independent oracle: is a projection right on all of
them?

    python benchmarks/torchvision_models.py            # all: an hour on two cores
    python benchmarks/torchvision_models.py --models resnet18,vgg11

For each model, units of several layers are projected under the three rules, and compared with an
oracle that replaces every rectifier in the forward pass at the function level (tests/oracles.py).
Weights are random, with random batch statistics so that no layer is degenerate. Prints a table in
Markdown: calls of rectifiers and their relatives, comparisons made, and the largest difference,
relative to the largest magnitude of the oracle's projection. float32 rounding is 1e-7 for one
operation."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from differences import Differences
from oracles import Rectifiers, projection

from featviz import Layer, Unit, anatomy, project
from featviz.errors import LayerError, RuleError

RULES = ("gradient", "deconvnet", "guided")
SIDES = {"inception_v3": 299}  # pixels
SIDE = 224  # of all others
ALLOWED = 1e-3  # the largest relative difference that is rounding
WITHOUT_INITIAL = ("googlenet", "inception_v3")  # whose own initialisation takes minutes
HEADS = ("model", "activations", "comparisons", "largest relative difference", "seconds")


def build(name: str) -> nn.Module:
    """The model with seeded random weights, and batch statistics as if it had seen data."""
    torch.manual_seed(0)
    options = {}
    if name in WITHOUT_INITIAL:
        options["init_weights"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, 0.02)  # torchvision starts ViT's head at zero
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


def compare(name: str, layers: int, units: int) -> Comparison:
    """Project units of several layers under every rule, with featviz and with the oracle."""
    model = build(name)
    side = SIDES.get(name, SIDE)
    image = torch.randn(3, side, side, generator=torch.Generator().manual_seed(1))
    net = anatomy(model, (3, side, side), only=[])
    result = Comparison(activations=activations(model, image))
    for layer in spread(list(net.values()), layers):
        for unit in units_of(layer, units):
            for rule in RULES:
                try:
                    values = project(model, image, unit, rule=rule)[0]
                except RuleError as error:
                    result.note = str(error)
                    continue
                except LayerError:  # a table of relative positions, say, which no image changes
                    continue
                position = unit.at if isinstance(unit.at, tuple) else (0, 0)
                expected = projection(model, image, layer.name, unit.channel, position, rule)
                result.differences.add(values, expected)
    return result


def activations(model: nn.Module, image: Tensor) -> int:
    """How many rectifiers and their relatives a forward pass calls."""
    with Rectifiers("gradient") as rectifiers, torch.no_grad():
        model(image[None])
    return int(rectifiers.replaced)


def spread(layers: list[Layer], n: int) -> list[Layer]:
    """n layers with maps, or vectors of all tokens together, spread evenly over the depth, and the
    last.
    """
    usable = [layer for layer in layers if layer.has_units]
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
    parser.add_argument("--models", help="names with commas (default: all)")
    parser.add_argument("--layers", type=int, default=3, help="layers of each model (default: 3)")
    parser.add_argument("--units", type=int, default=1, help="units of each layer (default: 1)")
    return parser


def main() -> None:
    args = arguments().parse_args()
    names = torchvision.models.list_models(module=torchvision.models)
    if args.models:
        names = args.models.split(",")
    print(f"| {' | '.join(HEADS)} |")
    print("| --- " * len(HEADS) + "|", flush=True)
    failed = []
    silent = 0
    for name in names:
        start = time.perf_counter()
        result = compare(name, args.layers, args.units)
        print(result.row(name, time.perf_counter() - start), flush=True)
        silent += result.differences.silent
        if not result.differences.within(ALLOWED):
            failed.append(name)
    counted = f"{len(names)} models, {len(failed)} that differ by more than rounding"
    print(f"\n{counted}: {', '.join(failed) or 'none'}")
    print(f"{silent} of the projections are 0 everywhere")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
