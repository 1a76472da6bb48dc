"""What reading layers costs: time beside bare hooks and other libraries, and memory over many forwards.

    python benchmarks/hooks.py speed     # the first table of docs/speed.md
    python benchmarks/hooks.py memory    # the second

Speed: the 20 convolutions of a ResNet-18 are read, and of each the maximum of every map is kept. Every
way runs in a process of its own, in turns with 20 bare forward hooks that keep the same, since some
libraries wrap the functions of torch when they are first called; medians of the ratios to the bare hooks
of the same turn. Libraries that are not installed are left out. baukit is on no package index.

Memory: what the process holds, and how many objects the garbage collector knows, after forwards of a
small network, against the same after a tenth of them."""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torchvision
from timing import device_name, timed
from torch import Tensor, nn

from featviz import capture

BATCH = 4
SIDE = 224
TURNS = 201
SLOW_TURNS = 5  # of libraries that take seconds
FORWARDS = 10_000
RAISING = 1_000
OPEN = ExitStack()
"""Blocks that last as long as the process."""

Work = Callable[[], Any]


def maxima(name: str, maps: Tensor) -> Tensor:
    return maps.amax((2, 3))


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def set_bare_hooks(model: nn.Module, kept: dict[str, Tensor]) -> list[Any]:
    """One forward hook a layer, as short as it can be."""

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            kept[name] = output.amax((2, 3))

        return hook

    return [
        model.get_submodule(name).register_forward_hook(hook_of(name))
        for name in convolutions(model)
    ]


# --- ways: each gives a forward that returns how many layers were read


def by_nothing(model: nn.Module, x: Tensor) -> Work:
    return lambda: (model(x), 20)[1]


def by_featviz(model: nn.Module, x: Tensor) -> Work:
    """A block for each forward."""

    def work() -> int:
        with capture(model, "conv", reduce=maxima) as acts:
            model(x)
        return len(acts)

    return work


def by_featviz_block(model: nn.Module, x: Tensor) -> Work:
    """One block for all forwards, as in a training loop."""
    acts = OPEN.enter_context(capture(model, "conv", reduce=maxima))
    return lambda: (model(x), len(acts))[1]


def by_torchvision(model: nn.Module, x: Tensor) -> Work:
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(model, return_nodes=convolutions(model))
    return lambda: len({name: maxima(name, maps) for name, maps in extractor(x).items()})


def by_torchlens(model: nn.Module, x: Tensor) -> Work:
    import torchlens

    chosen = torchlens.func("conv2d")

    def work() -> int:
        recording = torchlens.record(
            model,
            x,
            save=chosen,
            activation_transform=lambda maps: maps.amax((2, 3)),
            save_raw_activations=False,
        )
        return len(recording)

    return work


def by_nnsight(model: nn.Module, x: Tensor) -> Work:
    from nnsight import NNsight

    wrapped = NNsight(model)
    names = convolutions(model)

    def work() -> int:
        with wrapped.trace(x):
            kept = dict().save()  # type: ignore[attr-defined]  # noqa: C408
            for name in names:
                kept[name] = wrapped.get(name).output.amax((2, 3))
        return len(kept)

    return work


WAYS: dict[str, tuple[str, str, Callable[[nn.Module, Tensor], Work], int]] = {
    "no hooks": ("torch", "", by_nothing, TURNS),
    "featviz": ("featviz", "`capture(model, 'conv', reduce=...)`, a block each", by_featviz, TURNS),
    "featviz-block": ("featviz", "the same, one block for all", by_featviz_block, TURNS),
    "torchvision": ("torchvision", "`create_feature_extractor`", by_torchvision, TURNS),
    "torchlens": ("torchlens", "`record(save=func('conv2d'))`", by_torchlens, SLOW_TURNS),
    "nnsight": ("nnsight", "`NNsight(model).trace`", by_nnsight, TURNS),
}
"""By name: the library, what is called, the way, and how many turns it takes."""


def speed(device: str) -> None:
    print(f"{device_name(device)}, torch {torch.__version__}")
    print(f"{BATCH} images of {SIDE} px, in turns with 20 bare hooks\n")
    print("| | called | bare hooks | time | ratio |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, (library, *_) in WAYS.items():
        if importlib.util.find_spec(library) is None:
            print(f"| {library} | not installed | | | |", flush=True)
            continue
        command = [sys.executable, str(Path(__file__)), "way", "--name", name, "--device", device]
        subprocess.run(command, check=True)


@torch.no_grad()
def way(name: str, device: str) -> None:
    """One row of the table, in this process."""
    warnings.simplefilter("ignore")
    library, called, build, turns = WAYS[name]
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
    model = torchvision.models.resnet18(weights=None).eval().to(device)
    # modules of its own, and the same weights: others lie elsewhere in memory, which takes its own time
    weights = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    hooked = copy.deepcopy(model, weights)
    kept: dict[str, Tensor] = {}
    set_bare_hooks(hooked, kept)
    work = build(model, x)
    for _ in range(3):
        work()
        hooked(x)
    times: list[float] = []
    bare: list[float] = []
    for turn in range(turns):
        # either goes first in every other turn
        for is_bare in (turn % 2 == 0, turn % 2 == 1):
            if is_bare:
                bare.append(timed(lambda: hooked(x), device)[0])
            else:
                seconds, n = timed(work, device)
                times.append(seconds)
                assert n == 20, f"{name} read {n} layers"
    assert len(kept) == 20
    ratio = statistics.median(a / b for a, b in zip(times, bare, strict=True))
    medians = [f"{1000 * statistics.median(values):.1f} ms" for values in (bare, times)]
    label = name if library == "torch" else f"{library} {_version(library)}"
    print(f"| {label} | {called} | {medians[0]} | {medians[1]} | {ratio:.3f} |", flush=True)


def _version(library: str) -> str:
    return str(getattr(importlib.import_module(library), "__version__", ""))


# --- memory


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("on purpose")


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())


def a_block_each(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def work() -> None:
        with capture(model, "conv", gradients=True) as acts:
            model(x).sum().backward()
        assert len(acts.gradients) == 2

    return work


def a_block_for_all(model: nn.Module, x: Tensor) -> Callable[[], None]:
    acts = OPEN.enter_context(capture(model, "conv", gradients=True))

    def work() -> None:
        model(x).sum().backward()
        assert len(acts.gradients) == 2

    return work


def a_block_that_raises(model: nn.Module, x: Tensor) -> Callable[[], None]:
    failing = nn.Sequential(*model.children(), Fails())

    def work() -> None:
        with suppress(ArithmeticError), capture(failing, "conv", gradients=True):
            failing(x)

    return work


def a_block_for_all_that_raises(model: nn.Module, x: Tensor) -> Callable[[], None]:
    failing = nn.Sequential(*model.children(), Fails())
    OPEN.enter_context(capture(failing, "conv", gradients=True, every=True))

    def work() -> None:
        with suppress(ArithmeticError):
            failing(x)

    return work


RUNS = {
    "a block each": (a_block_each, FORWARDS),
    "one block for all": (a_block_for_all, FORWARDS),
    "a block each, raising": (a_block_that_raises, RAISING),
    "one block for all, raising": (a_block_for_all_that_raises, RAISING),
}


def memory() -> None:
    print(f"{device_name('cpu')}, torch {torch.__version__}\n")
    print("| forwards | | memory | growth | objects | growth |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (build, n) in RUNS.items():
        work = build(small(), torch.randn(1, 3, 16, 16))
        for _ in range(n // 10):
            work()
        before = held()
        for _ in range(n):
            work()
        after = held()
        growth = [f"{100 * (b / a - 1):+.2f}%" for a, b in zip(before, after, strict=True)]
        print(
            f"| {n:,} | {name} | {after[0] / 2**20:.1f} MB | {growth[0]} "
            f"| {after[1]:,} | {growth[1]} |",
            flush=True,
        )


def held() -> tuple[int, int]:
    """Bytes that the process has in memory, and objects."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096, len(gc.get_objects())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=["speed", "memory", "way"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", choices=WAYS, help="of a way: one row of the table of speed")
    args = parser.parse_args()
    if args.table == "speed":
        speed(args.device)
    elif args.table == "way":
        way(args.name, args.device)
    else:
        memory()


if __name__ == "__main__":
    main()
