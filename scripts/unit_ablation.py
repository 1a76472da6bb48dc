"""Units switched off one by one: the accuracy that is lost in all and on single classes, and whether
selective units are those that matter.

    python scripts/unit_ablation.py                               # zfmini, synthetic images
    python scripts/unit_ablation.py --model resnet18 --weights DEFAULT --images val/ --layers layer4

After Zhou et al. (arXiv 1806.02891) and Morcos et al. (ICLR 2018). Without --layers the units are
those of the rectifier behind the last convolution. The class selectivity of a unit is (m - r) / (m + r),
of its mean response m to the class that activates it most and r to all others; responses below zero
count as zero. The images need labels that are the model's classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import choose
import torch
from classes import add_classes, named
from shared import Rows, heading_of, images_from, model_from, parser, run, write
from torch import Tensor, nn

from featviz import Ablation, Images, Layer, ablate, figures, responses
from featviz.errors import LayerError
from featviz.measures import class_selectivity


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__,
        "unit_ablation",
        layers=None,
        usual="the rectifier behind the last convolution",
    )
    add_classes(result)
    result.add_argument(
        "--by",
        default="zero",
        choices=("zero", "mean"),
        help="what takes the place of a unit's map: zero, or its mean over all images (default: zero)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Ablate every unit of a layer, measure how selective each is, draw."""
    model = model_from(args)
    images = named(args, images_from(args, model, synthetic=1000))
    labels = choose.indices_of(args, model, images)
    layer = layer_of(model, images, args.layers)
    result = ablate(
        model,
        images,
        layer,
        by=args.by,
        labels=labels,
        batch_size=args.batch_size,
        progress=True,
    )
    means = responses(
        model, images, [layer], reduce="mean", batch_size=args.batch_size, progress=True
    )
    index = selectivity(means[layer.name], labels)
    figure = figures.unit_ablation(result, index, heading=heading_of(args))
    write(figure, table(result, index), args.out, "unit_ablation")
    print(summary(result))


def layer_of(model: nn.Module, images: Images, layers: str | None) -> Layer:
    """The layer that is asked for; else the rectifier behind the last convolution."""
    net = choose.anatomy_of(model, images, layers or "conv")
    if layers is None:
        return choose.rectified(net, choose.with_maps(net, "conv")[-1])
    chosen = net.select(layers)
    if len(chosen) > 1:
        raise LayerError(f"--layers {layers!r} means {len(chosen)} layers: give one")
    return chosen[0]


def selectivity(means: Tensor, labels: Sequence[int]) -> Tensor:
    """The class selectivity (u,) of units, from 0 to 1, of their responses (n, u) to images of these
    classes; NaN for a unit that responds to none, and where there is a single class."""
    if len(set(labels)) == 1:
        return torch.full((means.shape[1],), torch.nan)
    return class_selectivity(means, labels).selectivity


def table(result: Ablation, index: Tensor) -> Rows:
    """A row for each unit."""
    rows: list[dict[str, Any]] = result.rows()
    for row, value in zip(rows, index.tolist(), strict=True):
        row["selectivity"] = value
    return rows


def summary(result: Ablation) -> str:
    """The means of what is lost, in words."""
    drops = 100 * float(result.drops.mean())
    highest = 100 * float(result.class_drops.nan_to_num(-torch.inf).amax(dim=1).mean())
    return (
        f"{result.layer}: without a unit {drops:.2f} points of accuracy are lost on average, "
        f"{highest:.1f} on the class that loses most"
    )


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
