"""Occlusion side by side with captum's Occlusion, called by default: one window in a forward pass.

    python benchmarks/occlusion.py                     # the table of docs/speed.md; --device cuda
    on a GPU

All cover one image with the same windows and read the same logit, in one process, in turns. featviz
runs windows in batches, first of full images, then by default, where it recomputes only what a
window changes in the first layers. Printed are the median times of an image, the median over the
turns of captum's time over each of featviz's, the largest difference from captum, relative to the
largest value, and the layer up to which the incremental forward was used. Weights are random: they
do not change what is computed."""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from captum.attr import Occlusion
from timing import timed
from torch import Tensor, nn

from featviz import Unit, anatomy, occlude

MODELS = ("alexnet", "resnet18", "vgg16")
HEADS = (
    "model",
    "captum",
    "featviz, full images",
    "ratio",
    "featviz",
    "ratio",
    "largest difference",
    "incremental up to",
)


@dataclass
class Comparison:
    """Seconds of each turn: of captum, of featviz on full images, and of featviz by default.

    Attributes:
        difference: the largest, relative to the largest value.
        layer: the last of the incremental forward; None where full images were run.
    """

    captum: list[float]
    full: list[float]
    default: list[float]
    difference: float
    layer: str | None

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [
            name,
            f"{statistics.median(self.captum):.2f} s",
            f"{statistics.median(self.full):.2f} s",
            f"{_ratio(self.captum, self.full):.1f}x",
            f"{statistics.median(self.default):.2f} s",
            f"{_ratio(self.captum, self.default):.1f}x",
            f"{self.difference:.1e}",
            str(self.layer),
        ]
        return f"| {' | '.join(cells)} |"


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """The median over the turns."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def compare(model: nn.Module, args: argparse.Namespace) -> Comparison:
    """One model, in turns; the first turn warms up and does not count."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, args.size, args.size, generator=generator).to(args.device)
    captum = captum_of(model, x, args)
    last = list(anatomy(model, (3, args.size, args.size)))[-1]
    result = Comparison([], [], [], 0.0, None)

    def featviz(incremental: bool) -> Tensor:
        maps = occlude(
            model,
            x,
            Unit(last, 5),
            window=args.window,
            stride=args.stride,
            batch_size=args.batch_size,
            incremental=incremental,
        )
        if incremental:
            result.layer = maps.layer
        return maps.attribution()

    for turn in range(args.turns + 1):
        theirs, expected = timed(captum, args.device)
        full, of_full = timed(lambda: featviz(False), args.device)
        default, of_default = timed(lambda: featviz(True), args.device)
        for values in (of_full, of_default):
            difference = float((values - expected).abs().max() / expected.abs().max())
            result.difference = max(result.difference, difference)
        if turn > 0:
            result.captum.append(theirs)
            result.full.append(full)
            result.default.append(default)
    return result


def captum_of(model: nn.Module, x: Tensor, args: argparse.Namespace) -> Callable[[], Tensor]:
    """Captum's attribution, (h, w), as a function to be timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = Occlusion(model)
    window = (3, args.window, args.window)
    stride = (3, args.stride, args.stride)

    def attribution() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values: Tensor = peer.attribute(x, window, stride, target=5)
        return values[0, 0].cpu()

    return attribution


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    names = ",".join(MODELS)
    parser.add_argument("--models", default=names, help=f"torchvision names (default: {names})")
    parser.add_argument("--size", type=int, default=224, help="side of the image (default: 224)")
    parser.add_argument("--window", type=int, default=32, help="side of the square (default: 32)")
    parser.add_argument("--stride", type=int, default=16, help="its step (default: 16)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="windows in a forward pass of featviz (default: as it chooses)",
    )
    parser.add_argument("--turns", type=int, default=3, help="measured turns (default: 3)")
    return parser


def main() -> None:
    args = arguments().parse_args()
    device = f"CPU, {torch.get_num_threads()} threads"
    if args.device != "cpu":
        device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}\n")
    print(f"| {' | '.join(HEADS)} |")
    print("| --- " * len(HEADS) + "|", flush=True)
    for name in args.models.split(","):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval().to(args.device)
        print(compare(model, args).row(name), flush=True)


if __name__ == "__main__":
    main()
