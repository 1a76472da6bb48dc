"""Units of a ResNet-20 switched off one by one, beside a forward pass for each; and edits that change
nothing.

    python benchmarks/ablation.py speed --images cifar10/test        # the table of docs/speed.md
    python benchmarks/ablation.py identity     # the figure of docs/right.md

Speed: in turns in one process; medians of the ratios, and the largest difference of a score.
Identity: every classifier of torchvision with random weights, on one image, with every layer edited by
a function that returns what it is given: how many give the bits of the network without edits."""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
import torchvision
from timing import device_name, timed
from torch import Tensor, nn

from featviz import Images, Layer, Preprocess, ablate, anatomy, edit, edits, load_model, open_images
from featviz.hooks import evaluating

LAYERS = ("layer1.2", "layer2.2", "layer3.0", "layer3.1.conv1", "layer3.1", "layer3.2.conv1")
TURNS = 3
BATCH = 128


def speed(args: argparse.Namespace) -> None:
    model = load_model("scripts.resnet20:resnet20", args.weights, device=args.device)
    images = open_images(args.images, Preprocess(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3))
    net = anatomy(model, (3, 32, 32), only=[])
    print(f"{len(images):,} images, batches of {BATCH}, {device_name(args.device)}\n")
    print("| layer | units | a forward for each | `ablate` | ratio | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.layers:
        print(timed_row(model, images, net[name], args), flush=True)


def timed_row(model: nn.Module, images: Images, layer: Layer, args: argparse.Namespace) -> str:
    """A row of the table: both ways in turns."""
    units = range(min(args.units or layer.channels, layer.channels))

    def suffixes() -> Tensor:
        result = ablate(model, images, layer, units, batch_size=BATCH)
        assert not result.fallbacks
        return result.ablated

    def forwards() -> Tensor:
        return in_full(model, images, layer, units)

    slow, fast, ratios = [], [], []
    difference = 0.0
    for _ in range(args.turns):
        seconds, expected = timed(forwards, args.device)
        own, scores = timed(suffixes, args.device)
        slow.append(seconds)
        fast.append(own)
        ratios.append(seconds / own)
        difference = max(difference, float((scores - expected).abs().max()))
    cells = (
        f"`{layer.name}`",
        str(len(units)),
        f"{statistics.median(slow):.1f} s",
        f"{statistics.median(fast):.1f} s",
        f"{statistics.median(ratios):.1f}x",
        f"{difference:.1g}",
    )
    return f"| {' | '.join(cells)} |"


def in_full(model: nn.Module, images: Images, layer: Layer, units: range) -> Tensor:
    """The mean scores without each unit, (u, s), by a forward pass of each batch for each unit."""
    parameter = next(model.parameters())
    totals = [torch.zeros(())] * len(units)
    with evaluating(model), torch.no_grad():
        for _, batch in images.batches(range(len(images)), BATCH):
            x = images.preprocess.normalize(batch).to(parameter)
            for i, channel in enumerate(units):
                with edit(model, {layer: edits.zero(channel)}):
                    totals[i] = totals[i] + model(x).double().sum(dim=0).cpu()
    return torch.stack(totals) / len(images)


def identity(args: argparse.Namespace) -> None:
    same, layers, networks = 0, 0, 0
    for name in torchvision.models.list_models(module=torchvision.models):
        model, size = network(name)
        x = torch.randn(1, 3, size, size)
        net = anatomy(model, (3, size, size), only=[])
        with torch.no_grad():
            expected = model(x)
            with edit(model, {layer: lambda output: output for layer in net.values()}):
                output = model(x)
        networks += 1
        layers += len(net)
        same += torch.equal(output, expected)
        print(
            f"{name}: {len(net)} layers, {'same bits' if torch.equal(output, expected) else 'OTHER'}"
        )
    print(f"\n{same} of {networks} networks give the same bits, with {layers:,} layers edited")


def network(name: str) -> tuple[nn.Module, int]:
    """A classifier of torchvision with random weights, in eval mode, and the side of its images."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    return model, 224 if name.startswith(("vit", "maxvit")) else 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "identity"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", default="cifar10/test", help="of 32 px: a folder")
    parser.add_argument("--weights", default="initial", help="of the ResNet-20: a file")
    parser.add_argument("--units", type=int, help="of each layer (default: all)")
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--turns", type=int, default=TURNS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*weights.*", category=FutureWarning)
    {"speed": speed, "identity": identity}[args.what](args)


if __name__ == "__main__":
    main()
