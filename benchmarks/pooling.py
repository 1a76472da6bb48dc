"""Max-pooling in featviz's forward passes, side by side with torch's own, on a CPU.

    python benchmarks/pooling.py                  # the table of docs/speed.md

The pools of AlexNet, ResNet-18 and SqueezeNet on their activations of 32 images of 224 px, without gradients,
and forward and backward. Both run in one process and in turns; printed are medians and the median of the
ratios."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from timing import device_name
from torch import Tensor, nn

from featviz.cli.allocator import keep_freed_memory
from featviz.pooling import quick_pooling

POOLS = (
    ("alexnet", (32, 64, 55, 55), nn.MaxPool2d(3, 2)),
    ("resnet18", (32, 64, 112, 112), nn.MaxPool2d(3, 2, padding=1)),
    ("squeezenet1_1", (32, 64, 111, 111), nn.MaxPool2d(3, 2, ceil_mode=True)),
    ("squeezenet1_1", (32, 256, 27, 27), nn.MaxPool2d(3, 2, ceil_mode=True)),
)
HEADS = ("model", "maps", "passes", "torch", "featviz", "ratio")


def forward(pool: nn.Module, x: Tensor, block: AbstractContextManager[object]) -> None:
    with torch.no_grad(), block:
        pool(x)


def both_ways(pool: nn.Module, x: Tensor, block: AbstractContextManager[object]) -> None:
    leaf = x.requires_grad_()
    with block:
        y = pool(leaf)
    torch.autograd.grad(y, leaf, torch.ones_like(y))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(name: str, x: Tensor, pool: nn.Module, passes: str, turns: int) -> str:
    """One pool, in turns; the first turn warms up and does not count."""
    work = forward if passes == "forward" else both_ways
    own, others = [], []
    for _ in range(turns + 1):
        others.append(seconds(lambda: work(pool, x, nullcontext())))
        own.append(seconds(lambda: work(pool, x, quick_pooling())))
    ratio = statistics.median(a / b for a, b in zip(own[1:], others[1:], strict=True))
    times = [f"{1000 * statistics.median(values[1:]):.1f} ms" for values in (others, own)]
    maps = "x".join(map(str, x.shape))
    return f"| {' | '.join([name, maps, passes, *times, f'{ratio:.2f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=15, help="that count (default: 15)")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{device_name('cpu')}, torch {torch.__version__}")
    print(f"| {' | '.join(HEADS)} |")
    print(f"|{' --- |' * len(HEADS)}")
    for name, shape, pool in POOLS:
        for passes in ("forward", "forward and backward"):
            print(row(name, torch.randn(shape).relu_(), pool, passes, args.turns), flush=True)


if __name__ == "__main__":
    main()
