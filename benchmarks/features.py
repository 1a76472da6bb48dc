"""Responses beside the bare forward pass over the same images.

    python benchmarks/features.py                  # the table of docs/speed.md
    python benchmarks/features.py --device cuda

In one process, in turns: the network alone on every image, and `responses` of every convolution and of
the last layer, so that both go to the end, in memory and to files. Printed are the images a second of
the bare forward, and the medians over the turns of the ratio of the others to it. The bare forward is
without gradients, and reads and normalises its batches as responses do. Weights are random."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from timing import device_name, timed
from torch import Tensor, nn

from featviz import Images, load_model, open_images, responses

CASES = {  # the layers, with which the forward goes to its end; pixels; and images for some seconds
    "zfmini": ("conv, fc8", 96, 8192),
    "squeezenet1_1": ("conv, classifier.3", 224, 512),
    "resnet18": ("conv, fc", 224, 512),
}
BATCH = 32
TURNS = 5


def bare(model: nn.Module, images: Images, device: str) -> Tensor:
    """The network alone; its last output."""
    output = torch.empty(0)
    with torch.no_grad():
        for _, batch in images.batches(range(len(images)), BATCH):
            output = model(images.preprocess.normalize(batch).to(device))
    return output


def measured(name: str, device: str) -> str:
    """A line of the table."""
    layers, side, n = CASES[name]
    torch.manual_seed(0)
    model = load_model(name, "initial", device=device)
    images = open_images(torch.rand(n, 3, side, side))
    with tempfile.TemporaryDirectory() as folder:

        def read(reduce: str, out: Path | None = None) -> Tensor:
            result = responses(model, images, layers, reduce=reduce, batch_size=BATCH, out=out)
            return next(iter(result.values()))

        works: list[Callable[[], Tensor]] = [
            lambda: read("max"),
            lambda: read("map"),
            lambda: read("max", Path(folder)),
        ]
        first, ratios = in_turns(lambda: bare(model, images, device), works, device)
    cells = [name, f"{n:,}", f"{n / first:.0f}", *(f"{ratio:.2f}x" for ratio in ratios)]
    return f"| {' | '.join(cells)} |"


def in_turns(
    first: Callable[[], Tensor], others: list[Callable[[], Tensor]], device: str
) -> tuple[float, list[float]]:
    """Median seconds of the first; and the median ratio of its time to that of each other."""
    seconds = []
    ratios: list[list[float]] = [[] for _ in others]
    timed(first, device)
    for _ in range(TURNS):
        own, _ = timed(first, device)
        seconds.append(own)
        for ratio, work in zip(ratios, others, strict=True):
            other, _ = timed(work, device)
            ratio.append(own / other)
    return statistics.median(seconds), [statistics.median(ratio) for ratio in ratios]


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    print(f"{device_name(device)}, torch {torch.__version__}\n")
    print("| model | images | bare, images/s | max | map | max, to files |\n" + "| --- " * 6 + "|")
    for name in CASES:
        print(measured(name, device), flush=True)


if __name__ == "__main__":
    main()
