"""Projections from crops beside projections of the same exemplars from full images.

    python benchmarks/crop_speed.py      # the table of docs/speed.md; needs timm

In one process, in turns; the median of their ratio. Networks ported from TensorFlow pad by the size of
their input, so that a crop has to be congruent with the image: a crop that does not give the response
of the full image falls back to it, and is counted. Weights are random."""

from __future__ import annotations

import statistics
import warnings
from dataclasses import replace

import torch
from timing import device_name, timed
from torch import Tensor, nn

from featviz import Images, LayerScan, load_model, open_images, project_exemplars, scan
from featviz.data import SyntheticImages
from featviz.geometry import Box

CASES = {  # with how many units, nine exemplars each
    "timm:tf_efficientnet_lite0": {"blocks.0.0": 16, "blocks.1.1": 16, "blocks.2.1": 16},
    "resnet18": {"layer1": 16, "layer2": 16},
}
SIDE = 224
TURNS = 5
IMAGES = 400  # so many that exemplars seldom share one


def from_full_images(layer_scan: LayerScan) -> LayerScan:
    """The same exemplars, of a layer that is said to see the full image."""
    layer = layer_scan.layer
    field = layer.field.as_full_image("global", Box(0, 0, SIDE, SIDE))
    return replace(layer_scan, layer=replace(layer, field=field))


def measured(model: nn.Module, images: Images, layer_scan: LayerScan, units: int) -> str:
    channels = range(min(units, layer_scan.layer.channels))
    fallbacks = []

    def work(of: LayerScan) -> Tensor:
        exemplars = project_exemplars(model, images, of, channels)
        fallbacks.append(exemplars.fallbacks)
        return exemplars.scores

    ratios = []
    for _ in range(TURNS):
        crops, _ = timed(lambda: work(layer_scan), "cpu")
        full, _ = timed(lambda: work(from_full_images(layer_scan)), "cpu")
        ratios.append(full / crops)
    count = len(channels) * layer_scan.top.k
    field = layer_scan.layer.field.size[0]
    return f"{field} | {fallbacks[0]} of {count} | {statistics.median(ratios):.1f}x"


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"{device_name('cpu')}, torch {torch.__version__}\n")
    print("| layer | receptive field | fallbacks | full image / crops |\n| --- | --- | --- | --- |")
    for name, layers in CASES.items():
        torch.manual_seed(0)
        model = load_model(name, weights="initial")
        pictures = SyntheticImages(IMAGES, size=SIDE)
        images = open_images([pictures[i][0] for i in range(IMAGES)])  # made once, not in each turn
        result = scan(model, images, list(layers), k=9)
        for layer, layer_scan in result.items():
            row = measured(model, images, layer_scan, layers[layer])
            print(f"| {name} `{layer}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
