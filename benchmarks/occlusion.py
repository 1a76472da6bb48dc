"""Occlusion side by side with captum's Occlusion, called by default: one window in a forward pass.

    python benchmarks/occlusion.py                     # the table of docs/speed.md; --device cuda
    on a GPU

All cover one image with the same windows and read the same logit, in one process, in turns. featviz
runs windows in batches, first of whole images, then by default, where it recomputes only what a
window changes in the first layers. Printed are the median times of an image, the median over the
turns of captum's time over each of featviz's, and the largest difference from captum, relative to
the largest value. Weights are random: they do not change what is computed."""

from __future__ import annotations

import argparse
import statistics
import warnings

import torch
import torchvision
from captum.attr import Occlusion
from timing import timed
from torch import Tensor, nn

from featviz import Unit, anatomy, occlude

MODELS = ("alexnet", "resnet18", "vgg16")


def one_model(model: nn.Module, args: argparse.Namespace) -> tuple[list[list[float]], float]:
    """Of each turn the seconds of captum, of whole images, and of featviz by default; and the
    largest relative difference.
    """
    x = torch.randn(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(
        args.device
    )
    last = list(anatomy(model, (3, args.size, args.size)))[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = Occlusion(model)

    def captum() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Tensor = peer.attribute(
                x, (3, args.window, args.window), (3, args.stride, args.stride), target=5
            )
        return found[0, 0].cpu()

    def ours(partial: bool) -> Tensor:
        found = occlude(
            model,
            x,
            Unit(last, 5),
            window=args.window,
            stride=args.stride,
            batch_size=args.batch_size,
            partial=partial,
        )
        return found.attribution()

    times: list[list[float]] = []
    worst = 0.0
    for turn in range(args.turns + 1):
        theirs, expected = timed(captum, args.device)
        whole, first = timed(lambda: ours(False), args.device)
        part, second = timed(lambda: ours(True), args.device)
        worst = max(
            worst,
            *(
                float((found - expected).abs().max() / expected.abs().max())
                for found in (first, second)
            ),
        )
        if turn:  # the first warms up
            times.append([theirs, whole, part])
    return times, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help=f"torchvision names (default: {','.join(MODELS)})",
    )
    parser.add_argument("--size", type=int, default=224, help="side of the image (default: 224)")
    parser.add_argument("--window", type=int, default=32, help="side of the square (default: 32)")
    parser.add_argument("--stride", type=int, default=16, help="its step (default: 16)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="windows in a forward pass of featviz (default: as it chooses)",
    )
    parser.add_argument("--turns", type=int, default=3, help="measured turns (default: 3)")
    args = parser.parse_args()
    device = (
        torch.cuda.get_device_name()
        if args.device != "cpu"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{device}, torch {torch.__version__}\n")
    print(
        "| model | captum | featviz, whole images | ratio | featviz | ratio | largest difference |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in args.models.split(","):
        torch.manual_seed(0)
        times, worst = one_model(
            torchvision.models.get_model(name, weights=None).eval().to(args.device), args
        )
        theirs, whole, part = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [statistics.median(turn[0] / turn[i] for turn in times) for i in (1, 2)]
        print(
            f"| {name} | {theirs:.2f} s | {whole:.2f} s | {ratios[0]:.1f}x | {part:.2f} s | {ratios[1]:.1f}x | {worst:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
