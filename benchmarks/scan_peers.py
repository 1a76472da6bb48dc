"""A scan of every convolution, side by side with other ways to the strongest images of each unit.

    python benchmarks/scan_peers.py               # the table of docs/speed.md; --models alexnet

Each runs the same images, which are in memory, in batches of 32, in one process and in turns: the bare
forward to the last convolution; `featviz.scan`; hooks that store every map and sort at the end; and
zennit-crp's ``FeatureVisualization`` where it is installed (``pip install zennit-crp``), which looks for
the most relevant images too and so runs a backward pass. Printed are the median seconds and the median
over the turns of their ratio to the bare forward. Weights are random."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import tempfile
from collections.abc import Callable

import torch
from forwards import bare, made
from timing import device_name
from torch import Tensor, nn

from featviz import Images, Layer, Preprocess, anatomy, scan
from featviz.hooks import evaluating

BATCH = 32
K = 9
SIZE = 224
Work = Callable[[], object]


def storing(model: nn.Module, layers: list[Layer], batches: list[Tensor]) -> Work:
    """Every map of every image is kept; then each unit's strongest images are sorted out."""

    def work() -> None:
        maps: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}

        def hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda module, given, output: maps[name].append(output)

        handles = [
            model.get_submodule(layer.name).register_forward_hook(hook(layer.name))
            for layer in layers
        ]
        try:
            bare(model, model.get_submodule(layers[-1].name), batches)()
        finally:
            for handle in handles:
                handle.remove()
        for kept in maps.values():
            torch.cat(kept).flatten(2).amax(dim=2).topk(K, dim=0)

    return work


def crp(model: nn.Module, layers: list[Layer], pixels: Tensor) -> Work:
    """zennit-crp's search for the images that activate a channel most, and for the most relevant."""
    attribution = importlib.import_module("crp.attribution")
    concepts = importlib.import_module("crp.concepts")
    visualization = importlib.import_module("crp.visualization")
    composites = importlib.import_module("zennit.composites")

    class Labelled(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return pixels[index], 0

    def work() -> None:
        concept = concepts.ChannelConcept()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            search = visualization.FeatureVisualization(
                attribution.CondAttribution(model),
                Labelled(),
                {layer.name: concept for layer in layers},
                path=folder,
            )
            with evaluating(model), contextlib.redirect_stderr(io.StringIO()):
                search.run(composites.EpsilonPlusFlat(), 0, len(pixels), BATCH)

    return work


def table(name: str, images: int, turns: int) -> None:
    """One model, in turns; the first turn warms up and does not count."""
    model = made(name, "cpu")
    pixels = torch.rand(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    data = Images([str(i) for i in range(images)], pixels.__getitem__, Preprocess())
    net = anatomy(model, (3, SIZE, SIZE))
    layers = net.select("conv")
    batches = list(pixels.split(BATCH))
    ways = {
        "bare forward": bare(model, model.get_submodule(layers[-1].name), batches),
        "featviz.scan": lambda: scan(model, data, layers, k=K, batch_size=BATCH, net=net),
        "hooks that store all": storing(model, layers, batches),
    }
    if importlib.util.find_spec("crp"):
        ways["zennit-crp"] = crp(model, layers, pixels)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns + 1):
        for way, work in ways.items():
            seconds[way].append(seconds(work, "cpu"))
    forward = seconds["bare forward"][1:]
    for way, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], forward, strict=True))
        print(
            f"| {name} | {way} | {statistics.median(values[1:]):.2f} s | {ratio:.2f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=("alexnet", "resnet18"), metavar="MODEL")
    parser.add_argument("--images", type=int, default=256, help="in each turn (default: 256)")
    parser.add_argument("--turns", type=int, default=3, help="that count (default: 3)")
    args = parser.parse_args()
    print(f"{device_name('cpu')}, torch {torch.__version__}")
    print("| model | way | seconds | ratio |")
    print("| --- | --- | --- | --- |")
    for name in args.models:
        table(name, args.images, args.turns)


if __name__ == "__main__":
    main()
