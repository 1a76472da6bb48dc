"""Images of 16 units at once, beside torch-lucent with an image at a time.

Both with an image of the same size, the Fourier parameterization and as many steps; each network
with random weights, which take as long as trained ones. Runs alternate, and the ratio is that of the
medians. Needs ``pip install torch-lucent``.

    python benchmarks/maximize.py --repeats 3
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch
from lucent.optvis import objectives, param, render
from torch import nn

from featviz import Preprocess, Unit, load_model, maximize

CASES = {"alexnet": "features.8", "resnet18": "layer2"}


def ours(model: nn.Module, layer: str, units: int, size: int, steps: int) -> None:
    recipe = Preprocess(
        size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    targets = [Unit(layer, channel) for channel in range(units)]
    maximize(model, targets, preprocess=recipe, size=size, steps=steps)


def theirs(model: nn.Module, layer: str, units: int, size: int, steps: int) -> None:
    name = layer.replace(".", "_")
    for channel in range(units):
        render.render_vis(
            model,
            objectives.neuron(name, channel),
            lambda: param.image(size),
            thresholds=(steps,),
            show_image=False,
            progress=False,
            fixed_image_size=size,
        )


def seconds(run: object, *args: object) -> float:
    begin = perf_counter()
    run(*args)  # type: ignore[operator]
    return perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for spec, layer in CASES.items():
        model = load_model(spec, "initial").eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        settings = (model, layer, args.units, args.size, args.steps)
        pairs = [
            (seconds(ours, *settings), seconds(theirs, *settings)) for _ in range(args.repeats)
        ]
        own = median(pair[0] for pair in pairs)
        other = median(pair[1] for pair in pairs)
        print(
            f"{spec} {layer}: featviz {own:.2f} s, torch-lucent {other:.2f} s, {other / own:.1f}x"
        )


if __name__ == "__main__":
    main()
