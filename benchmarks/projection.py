"""Projections side by side with captum's NeuronDeconvolution, called once for each unit as people
use it.

    python benchmarks/projection.py                    # the table of docs/speed.md
    python benchmarks/projection.py --device cuda

Both project the same exemplars of the same images under the deconvnet rule, in one process, in
turns. featviz projects all exemplars of the layer's first units (a scan's record is there, as in
use); captum a random sample of the same ones. Printed are the median times of a unit, the median
over the turns of their ratio, and the largest difference between the two, relative to the largest
value. Weights are random: they do not change what is computed."""

from __future__ import annotations

import argparse
import random
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import torch
import torchvision
from captum.attr import NeuronDeconvolution
from differences import Differences
from timing import device_name, timed
from torch import Tensor, nn

from featviz import Exemplars, Images, LayerScan, Preprocess, open_images, project_exemplars, scan
from featviz.data import SyntheticImages
from featviz.geometry import Box

CASES = [  # with how many units, nine exemplars each
    ("alexnet", "features.3", 64),
    ("vgg16", "features.5", 64),
    ("vgg16", "features.12", 32),
    ("vgg16", "features.21", 16),
    ("vgg16", "features.28", 8),
    ("resnet18", "layer2", 16),
    ("alexnet", "features.8", 32),
    ("resnet18", "layer4", 64),
]
SIDE = 224  # pixels
IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HEADS = ("layer", "receptive field", "captum", "featviz", "ratio", "largest difference")

Slot = tuple[int, int]
"""The row of a unit among exemplars, and a rank."""


@dataclass
class Comparison:
    """Of each turn the seconds a unit of captum and of featviz; and how far their projections
    differ.
    """

    captum: list[float] = field(default_factory=list)
    featviz: list[float] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)

    def row(self, name: str, layer_scan: LayerScan) -> str:
        """A line of the table."""
        ratios = [a / b for a, b in zip(self.captum, self.featviz, strict=True)]
        layer = layer_scan.layer
        cells = [
            f"{name} `{layer}`",
            str(layer.field.size[0]),
            f"{statistics.median(self.captum) * 1e3:.1f} ms",
            f"{statistics.median(self.featviz) * 1e3:.2f} ms",
            f"{statistics.median(ratios):.1f}x",
            f"{self.differences.largest:.1e}",
        ]
        return f"| {' | '.join(cells)} |"


def compare(
    model: nn.Module,
    layer_scan: LayerScan,
    units: int,
    images: Images,
    args: argparse.Namespace,
) -> Comparison:
    """One layer, in turns; the first turn warms up and does not count."""

    def featviz() -> Tensor:
        exemplars = project_exemplars(model, images, layer_scan, range(units))
        return exemplars.projections["deconvnet"]

    exemplars = project_exemplars(model, images, layer_scan, range(units))
    slots = living(exemplars)
    sample = random.Random(0).sample(slots, min(args.sample, len(slots)))
    captum = captum_of(model, layer_scan, images, sample, args.device)
    result = Comparison()
    for turn in range(args.turns + 1):
        theirs, expected = timed(captum, args.device)
        ours, projections = timed(featviz, args.device)
        if turn > 0:
            result.captum.append(theirs / len(sample))
            result.featviz.append(ours / len(slots))
    for slot, full in zip(sample, expected, strict=True):
        result.differences.add(on_image(exemplars, slot, projections, full.shape), full)
    return result


def living(exemplars: Exemplars) -> list[Slot]:
    """The exemplars of the units that are projected."""
    slots = product(range(len(exemplars.channels)), range(exemplars.k))
    return [(row, rank) for row, rank in slots if not exemplars.dead[row]]


def captum_of(
    model: nn.Module, layer_scan: LayerScan, images: Images, sample: list[Slot], device: str
) -> Callable[[], Tensor]:
    """Captum's projections of a sample, (n, c, h, w), as a function to be timed. A slot's row is
    the unit's channel: the first units of the layer are projected.
    """
    module = model.get_submodule(layer_scan.layer.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = NeuronDeconvolution(model, module)

    def projections() -> Tensor:
        results = []
        for channel, rank in sample:
            pixels = images[int(layer_scan.top.images[channel, rank])]
            x = images.preprocess.normalize(pixels)[None].to(device).requires_grad_()
            position = layer_scan.top.positions[channel, rank].tolist()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                signal = peer.attribute(x, (channel, *position))
            results.append(signal[0].detach().cpu())
        return torch.stack(results)

    return projections


def on_image(
    exemplars: Exemplars, slot: Slot, projections: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """A tile laid on an image (c, h, w) in its box, with 0 around it, as captum's signals are."""
    box = Box(*exemplars.boxes[slot].tolist())
    image = torch.zeros(shape)
    visible = projections[slot][:, exemplars.visible[slot]]  # (c, pixels)
    image[box.region] = visible.reshape(-1, box.height, box.width)
    return image


def drawn(n: int) -> Images:
    """Synthetic images, drawn once."""
    data = SyntheticImages(n, size=SIDE)
    pixels = torch.stack([data[i][0] for i in range(n)])
    return open_images(pixels, IMAGENET)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=32, help="images (default: 32)")
    parser.add_argument(
        "--sample",
        type=int,
        default=6,
        help="exemplars that captum projects in a turn (default: 6)",
    )
    parser.add_argument("--turns", type=int, default=3, help="measured turns (default: 3)")
    parser.add_argument("--cases", type=int, help="only the first N (default: all)")
    return parser


def main() -> None:
    args = arguments().parse_args()
    images = drawn(args.images)
    print(f"{device_name(args.device)}, torch {torch.__version__}\n")
    print(f"| {' | '.join(HEADS)} |")
    print("| --- " * len(HEADS) + "|", flush=True)
    for name, layer, units in CASES[: args.cases]:
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval().to(args.device)
        layer_scan = scan(model, images, [layer])[layer]
        print(compare(model, layer_scan, units, images, args).row(name, layer_scan), flush=True)


if __name__ == "__main__":
    main()
