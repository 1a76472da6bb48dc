"""Every classifier of torchvision against an independent oracle: is a projection right on all of
them?

    python benchmarks/torchvision_models.py            # all (an hour on two cores); --models
    resnet18,vgg11 for some

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
from pathlib import Path

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracles import Rectifiers, projection

from featviz import Unit, anatomy, project
from featviz.errors import LayerError, RuleError

RULES = ("gradient", "deconvnet", "guided")
SIZE = {"inception_v3": 299, "vit_h_14": 224, "vit_b_16": 224}


def build(name: str) -> nn.Module:
    """The model with seeded random weights, and batch statistics as if it had seen data."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, 0.02)  # torchvision starts ViT's head at zero
    return model


def spread(model: nn.Module, shape: tuple[int, int, int], n: int) -> list[str]:
    """n layers with maps, or all tokens' widths, spread evenly over the depth, and the last."""
    found = [
        name for name, info in anatomy(model, shape, only=()).items() if len(info.shape) in (1, 3)
    ]
    return list(dict.fromkeys(found[round(i * (len(found) - 1) / n)] for i in range(1, n + 1)))


def compare(name: str, layers: int, units: int) -> tuple[int, int, float, str]:
    """Number of rectifiers that the oracle replaced, of comparisons, the largest relative
    difference, and a note.
    """
    model, size = build(name), SIZE.get(name, 224)
    x = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))
    with Rectifiers("gradient") as seen, torch.no_grad():
        model(x[None])
    infos, worst, made, note = anatomy(model, (3, size, size), only=()), 0.0, 0, ""
    for layer in spread(model, (3, size, size), layers):
        shape = infos[layer].shape
        for i in range(units):
            channel = (7 * i) % shape[0]
            at = (shape[1] * (i + 1) // (units + 1), shape[2] // 2) if len(shape) == 3 else None
            for rule in RULES:
                try:
                    found = project(model, x, Unit(layer, channel, at=at), rule=rule)[0]
                except RuleError as error:
                    note = str(error)
                    continue
                except LayerError:  # a table of relative positions, say, which no image changes
                    continue
                expected = projection(model, x, layer, channel, at or (0, 0), rule)
                scale = float(expected.abs().max())
                worst = max(
                    worst,
                    float((found - expected).abs().max()) / scale
                    if scale
                    else float(found.abs().max()),
                )
                made += 1
    return seen.replaced, made, worst, note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", help="names with commas (default: all)")
    parser.add_argument("--layers", type=int, default=3, help="layers of each model (default: 3)")
    parser.add_argument("--units", type=int, default=1, help="units of each layer (default: 1)")
    args = parser.parse_args()
    names = (
        args.models.split(",")
        if args.models
        else torchvision.models.list_models(module=torchvision.models)
    )
    print(
        "| model | activations | comparisons | largest relative difference | seconds |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    failed = []
    for name in names:
        start = time.perf_counter()
        activations, made, worst, note = compare(name, args.layers, args.units)
        seconds = time.perf_counter() - start
        print(
            f"| {name} | {activations} | {made} | {worst:.1e} | {seconds:.0f} |{' ' + note if note else ''}",
            flush=True,
        )
        if worst > 1e-3 or not made:
            failed.append(name)
    print(
        f"\n{len(names)} models, {len(failed)} that differ by more than rounding: {', '.join(failed) or 'none'}"
    )
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
