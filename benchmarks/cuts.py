"""Every layer of six networks, in float64: does a projection from a cut equal that from the whole
image?

    python benchmarks/cuts.py                          # the table of docs/right.md; --models
    alexnet,resnet18 for some

For each layer that has a map, one unit is projected at an interior, a border and a corner position
under the deconvnet rule, from the cut that featviz takes, and compared with the backward pass of
one forward pass of the whole image, in which an oracle has replaced every rectifier at the function
level (tests/oracles.py). Prints the number of layers, how many of them are computed on less than
the image, and the largest difference, relative to the largest magnitude of the whole image's
projection."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracles import Rectifiers
from torchvision_models import build

from featviz import Unit, anatomy, load_model, project
from featviz.fields.anatomy import LayerInfo
from featviz.fields.crop import cut
from featviz.hooks import capture

MODELS = ("alexnet", "vgg16", "squeezenet1_1", "resnet18", "googlenet", "zfnet")


def positions(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Interior, border and corner."""
    _, height, width = shape
    return list(
        dict.fromkeys([(height // 2, width // 3), (0, width // 2), (height - 1, width - 1)])
    )


def whole(
    model: nn.Module, x: Tensor, infos: dict[str, LayerInfo]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image as a leaf, and every layer's output on the graph of one forward pass."""
    leaf = x[None].clone().requires_grad_()
    with (
        Rectifiers("deconvnet"),
        capture(model, [info.call for info in infos.values()], stop=False) as acts,
    ):
        model(leaf)
        return leaf, {name: acts[info.call] for name, info in infos.items()}


def compare(name: str) -> tuple[int, int, int, float]:
    """Layers, those computed on cuts, comparisons, and the largest relative difference."""
    torch.manual_seed(0)
    model = (
        (load_model(name, "initial", device="cpu") if name == "zfnet" else build(name))
        .double()
        .eval()
    )
    x = torch.randn(3, 224, 224, dtype=torch.float64)
    infos = {
        n: info
        for n, info in anatomy(model, (3, 224, 224), only=()).items()
        if len(info.shape) == 3
    }
    leaf, outputs = whole(model, x, infos)
    on_cuts, made, worst = 0, 0, 0.0
    for layer, info in infos.items():
        on_cuts += any(cut(info.field, *at, (224, 224)) is not None for at in positions(info.shape))
        for at in positions(info.shape):
            channel = 7 % info.shape[0]
            (expected,) = torch.autograd.grad(
                outputs[layer][0, channel, at[0], at[1]], leaf, retain_graph=True
            )
            found = project(model, x, Unit(layer, channel, at=at))[0]
            scale = float(expected.abs().max())
            worst = max(worst, float((found - expected[0]).abs().max()) / (scale or 1))
            made += 1
    return len(infos), on_cuts, made, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help=f"names with commas (default: {','.join(MODELS)})",
    )
    names = parser.parse_args().models.split(",")
    print(
        "| model | layers | on cuts | comparisons | largest relative difference | seconds |\n| --- | --- | --- | --- | --- | --- |"
    )
    failed = []
    for name in names:
        start = time.perf_counter()
        layers, on_cuts, made, worst = compare(name)
        seconds = time.perf_counter() - start
        print(
            f"| {name} | {layers} | {on_cuts} | {made} | {worst:.1e} | {seconds:.0f} |", flush=True
        )
        if worst > 1e-10:
            failed.append(name)
    print(f"\n{len(names)} models, {len(failed)} above 1e-10: {', '.join(failed) or 'none'}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
