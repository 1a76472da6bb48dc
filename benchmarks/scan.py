"""A scan of every convolution, side by side with the bare forward to the last of them.

    python benchmarks/scan.py                     # the table of docs/speed.md; --device cuda on a GPU

Both run the same images, which are in memory, in batches of the same size, in one process and in turns. On a
GPU they are in its memory: in 8 bits for the scan, as the network takes them for the forward. The bare forward
has one hook, which ends it behind the last convolution; it is run with the images' channels first in memory, as
they come, and last. Printed are the median seconds of each, the medians over the turns of the ratio of the scan
and the forward as images come, and of the scan and the quicker of the two, and the median of what a scan takes
before its first batch enters the network, of a model whose anatomy was traced before. Weights are random: they
do not change what is computed."""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import suppress
from itertools import cycle, islice

import torch
from forwards import End, bare, made
from timing import device_name, seconds
from torch import Tensor, nn

from featviz import Anatomy, Images, Layer, Preprocess, anatomy, open_images, scan
from featviz.cli.allocator import keep_freed_memory
from featviz.images._items import in_unit_range

MODELS = ("alexnet", "vgg16", "resnet18", "squeezenet1_1")
HEADS = ("model", "batch", "forward", "channels last", "scan", "ratio", "of the quicker", "start")
FEW = 4096
"""Images whose batches a GPU has in floating point, which its forward is given again and again."""


def start(
    model: nn.Module,
    images: Images,
    layers: list[Layer],
    batch_size: int,
    net: Anatomy,
    spectrum: bool,
) -> float:
    """Seconds of a scan until its first batch enters the network; with them the scan ends."""
    entered = 0.0

    def enter(module: nn.Module, given: tuple[Tensor]) -> None:
        nonlocal entered
        if len(given[0]) == batch_size:
            entered = time.perf_counter()
            raise End

    handle = model.register_forward_pre_hook(enter)
    begun = time.perf_counter()
    try:
        with suppress(End):
            scan(model, images, layers, batch_size=batch_size, net=net, spectrum=spectrum)
    finally:
        handle.remove()
    return entered - begun


def on_cpu(args: argparse.Namespace, batch_size: int) -> tuple[Images, list[Tensor]]:
    """Images in memory, and the same as batches."""
    shape = args.images, 3, args.size, args.size
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images = Images([str(i) for i in range(args.images)], pixels.__getitem__, Preprocess())
    return images, list(pixels.split(batch_size))


def on_gpu(args: argparse.Namespace, batch_size: int) -> tuple[Images, list[Tensor]]:
    """The same, where the batches are in the memory of a GPU; of many images, those of the first."""
    shape = args.images, 3, args.size, args.size
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device)
    batches = [in_unit_range(batch) for batch in pixels[:FEW].split(batch_size)]
    return open_images(pixels.to(args.images_on or args.device), Preprocess()), batches


def in_turn(batches: list[Tensor], n: int) -> list[Tensor]:
    """So many batches, which are the same ones again where there are fewer."""
    return list(islice(cycle(batches), n))


def row(model: nn.Module, name: str, batch_size: int, args: argparse.Namespace) -> str:
    """One model, in turns; the first turn warms up and does not count."""
    make = on_cpu if args.device == "cpu" else on_gpu
    images, batches = make(args, batch_size)
    net = anatomy(model, (3, args.size, args.size))
    layers = net.select("conv")
    last = model.get_submodule(layers[-1].name)
    n = -(-args.images // batch_size)
    forward = bare(model, last, in_turn(batches, n))
    laid_out = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    forward_last = bare(model, last, in_turn(laid_out, n))
    how = {"batch_size": batch_size, "net": net, "spectrum": args.spectrum}
    layout = {"channels_last": args.channels_last}
    forwards, lasts, scans, starts = [], [], [], []
    for _ in range(args.turns + 1):
        forwards.append(seconds(forward, args.device))
        lasts.append(seconds(forward_last, args.device))
        scans.append(seconds(lambda: scan(model, images, layers, **how, **layout), args.device))
        starts.append(start(model, images, layers, **how))
    ratio = statistics.median(s / f for s, f in zip(scans[1:], forwards[1:], strict=True))
    quicker = [min(pair) for pair in zip(forwards[1:], lasts[1:], strict=True)]
    of_quicker = statistics.median(s / f for s, f in zip(scans[1:], quicker, strict=True))
    cells = [
        name,
        str(batch_size),
        f"{statistics.median(forwards[1:]):.2f} s",
        f"{statistics.median(lasts[1:]):.2f} s",
        f"{statistics.median(scans[1:]):.2f} s",
        f"{ratio:.3f}",
        f"{of_quicker:.3f}",
        f"{statistics.median(starts[1:]):.2f} s",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--images-on",
        metavar="DEVICE",
        help="where a GPU's images are, in 8 bits: its memory (default), or cpu",
    )
    parser.add_argument("--size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--images", type=int, default=256, help="in each turn (default: 256)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=(16, 32), metavar="N")
    parser.add_argument("--turns", type=int, default=3, help="that count (default: 3)")
    parser.add_argument("--spectrum", action="store_true", help="count what lies below, too")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="how images lie in memory in the scan (default: as scan chooses)",
    )
    parser.add_argument(
        "--memory",
        choices=("kept", "returned"),
        default="kept",
        help="freed memory stays with the process, as with featviz's commands (default), or not",
    )
    args = parser.parse_args()
    if args.memory == "kept":
        keep_freed_memory()
    print(f"{device_name(args.device)}, torch {torch.__version__}")
    print(f"| {' | '.join(HEADS)} |")
    print(f"|{' --- |' * len(HEADS)}")
    for name in args.models:
        model = made(name, args.device)
        for batch_size in args.batch_sizes:
            print(row(model, name, batch_size, args), flush=True)


if __name__ == "__main__":
    main()
