"""Projections side by side with captum's NeuronDeconvolution, called once for each unit as people
use it.

    python benchmarks/projection.py                    # the table of docs/speed.md; --device cuda
    on a GPU

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

import torch
import torchvision
from captum.attr import NeuronDeconvolution
from timing import timed
from torch import Tensor, nn

from featviz import Images, Preprocess, Scan, open_images, project_exemplars, scan
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


def one_case(
    model: nn.Module, layer: str, units: int, images: Images, found: Scan, args: argparse.Namespace
) -> tuple[float, float, float, float]:
    """Seconds a unit with captum and with featviz, the median ratio, and the largest relative
    difference.
    """
    channels = list(range(units))
    made = project_exemplars(model, images, found, layer, channels)
    jobs = [(c, r) for c in range(len(channels)) for r in range(found.k) if not made.dead[c]]
    sample = random.Random(0).sample(jobs, min(args.sample, len(jobs)))
    module = dict(model.named_modules())[layer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = NeuronDeconvolution(model, module)

    def captum() -> Tensor:
        results = []
        for c, r in sample:
            x = (
                images.preprocess.normalise(images[int(made.images[c, r])])[None]
                .to(args.device)
                .requires_grad_()
            )
            at = found.top[layer].positions[channels[c], r].tolist()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(peer.attribute(x, (channels[c], *at))[0].detach().cpu())
        return torch.stack(results)

    def ours() -> Tensor:
        return project_exemplars(model, images, found, layer, channels).projections["deconvnet"]

    times: list[tuple[float, float]] = []
    for turn in range(args.turns + 1):
        theirs, expected = timed(captum, args.device)
        mine, projections = timed(ours, args.device)
        if turn:  # the first warms up
            times.append((theirs / len(sample), mine / len(jobs)))
    worst = 0.0
    for (c, r), whole in zip(sample, expected, strict=True):
        box, inside = Box(*made.boxes[c, r].tolist()), made.inside[c, r]
        worst = max(
            worst,
            float(
                (projections[c, r][:, inside] - whole[box.region].flatten(1)).abs().max()
                / whole.abs().max()
            ),
        )
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return medians[0], medians[1], statistics.median(a / b for a, b in times), worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=32, help="images (default: 32)")
    parser.add_argument(
        "--sample",
        type=int,
        default=6,
        help="exemplars that captum projects in a turn (default: 6)",
    )
    parser.add_argument("--turns", type=int, default=3, help="measured turns (default: 3)")
    args = parser.parse_args()
    drawn = torch.stack(
        [
            image
            for image, _ in map(
                SyntheticImages(args.images, size=224).__getitem__, range(args.images)
            )
        ]
    )
    images = open_images(drawn, Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    device = (
        torch.cuda.get_device_name()
        if args.device != "cpu"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{device}, torch {torch.__version__}\n\n| layer | receptive field | captum | featviz | ratio | largest difference |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, layer, units in CASES:
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval().to(args.device)
        found = scan(model, images, [layer], progress=False)
        theirs, ours, ratio, worst = one_case(model, layer, units, images, found, args)
        field = found.layers[layer].field.size[0]
        print(
            f"| {name} `{layer}` | {field} | {theirs * 1e3:.1f} ms | {ours * 1e3:.2f} ms | {ratio:.1f}x | {worst:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
