"""Images of 16 units at once, beside torch-lucent with an image at a time and torch-dreams' batches.

All with images of the same size and as many steps, each with its library's defaults otherwise, on networks
with random weights, which take as long as trained ones. Ways run in turns; medians of the times, and of
the ratios of the others to featviz in the same turn. Beside them the mean response of the units at the
middle of their maps to the images that were made. A library that is not installed is left out:

    pip install --no-deps torch-lucent==0.1.8 kornia==0.4.1 decorator future torch-dreams==4.0.0 opencv-python-headless
    python benchmarks/maximize.py
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from featviz import Preprocess, Unit, load_model, maximize, read

CASES = {"alexnet": "features.8", "resnet18": "layer2"}
RECIPE = Preprocess(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
Way = Callable[[nn.Module, str, int, int, int], Tensor]
"""Model, layer, units, size and steps to images (units, 3, size, size) in [0, 1]."""


def featviz(model: nn.Module, layer: str, units: int, size: int, steps: int) -> Tensor:
    targets = [Unit(layer, channel) for channel in range(units)]
    return maximize(model, targets, preprocess=RECIPE, size=size, steps=steps).images


def lucent(model: nn.Module, layer: str, units: int, size: int, steps: int) -> Tensor:
    objectives, param, render = (
        importlib.import_module(f"lucent.optvis.{name}")
        for name in ("objectives", "param", "render")
    )
    images = []
    for channel in range(units):
        (image,) = render.render_vis(
            model,
            objectives.neuron(layer.replace(".", "_"), channel),
            lambda: param.image(size),
            thresholds=(steps,),
            show_image=False,
            progress=False,
            fixed_image_size=size,
        )
        images.append(torch.from_numpy(image[0]).permute(2, 0, 1))
    return torch.stack(images)


def dreams(model: nn.Module, layer: str, units: int, size: int, steps: int) -> Tensor:
    dreamer = importlib.import_module("torch_dreams").Dreamer(model, quiet=True, device="cpu")
    parameter = importlib.import_module("torch_dreams.batched_image_param")
    objective = importlib.import_module("torch_dreams.batched_objective")
    made = dreamer.render(
        layers=[model.get_submodule(layer)],
        image_parameter=parameter.BatchedAutoImageParam(units, size, size, device="cpu"),
        custom_func=objective.BatchedObjective([partial(_loss, i) for i in range(units)]),
        iters=steps,
    )
    return torch.stack([made[i].to_chw_tensor() for i in range(units)])


def _loss(channel: int, outputs: list[Tensor]) -> Tensor:
    """What torch-dreams lowers: the response in the middle, negated."""
    maps = outputs[0]
    return -maps[0, channel, maps.shape[2] // 2, maps.shape[3] // 2]


WAYS: dict[str, tuple[str, Way]] = {
    "featviz": ("featviz", featviz),
    "torch-lucent": ("lucent", lucent),
    "torch-dreams": ("torch_dreams", dreams),
}


def reached(model: nn.Module, layer: str, images: Tensor) -> float:
    """The mean response of each image's unit in the middle of its map."""
    maps = read(model, RECIPE.normalize(images.float().clamp(0, 1)), layer)[layer]
    units = torch.arange(len(images))
    return float(maps[units, units, maps.shape[2] // 2, maps.shape[3] // 2].mean())


def rows(spec: str, layer: str, args: argparse.Namespace) -> list[str]:
    """Each way on one network, in turns."""
    model = load_model(spec, "initial").eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ways = {name: way for name, (module, way) in WAYS.items() if importlib.util.find_spec(module)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    responses = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            begin = perf_counter()
            images = way(model, layer, args.units, args.size, args.steps)
            seconds[name].append(perf_counter() - begin)
            responses[name] = reached(model, layer, images)
    cells = []
    for name, own in seconds.items():
        pairs = zip(own, seconds["featviz"], strict=True)
        ratio = median(other / first for other, first in pairs)
        cells.append([spec, f"`{layer}`", name, f"{median(own):.2f} s", f"{ratio:.1f}x"])
        cells[-1].append(f"{responses[name]:.3g}")
    return [f"| {' | '.join(own)} |" for own in cells]


def main() -> None:
    summary: Any = __doc__
    parser = argparse.ArgumentParser(description=summary.partition("\n")[0])
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        "| network | layer | | time | ratio | mean response |\n| --- | --- | --- | --- | --- | --- |"
    )
    for spec, layer in CASES.items():
        print("\n".join(rows(spec, layer, args)), flush=True)


if __name__ == "__main__":
    main()
