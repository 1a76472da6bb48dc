"""Invariance (figure 5 of the paper): how far features move while images are shifted, scaled and
turned.

    python scripts/invariance.py                                  # zfmini, synthetic images
    python scripts/invariance.py --model alexnet --weights DEFAULT --images photos/ --steps 19

A row for each transform: examples, the distance between the features of the original and the
transformed image in the first and in the last of the layers, and the probability of the image's
class, or of the most probable one where its own is none of the model's. Without --layers these are
the first convolution and the last hidden layer. Pixels from outside an image are gray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import choose
import torch
from classes import add_classes, named
from shared import heading_of, images_from, model_from, parser, positive, run, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Images, Layer, Rotate, Scale, SweepResult, Translate, figures, sweep
from featviz.errors import UsageError
from featviz.figures import SweptTransform

EXAMPLES = 3
"""So many images are shown transformed, by these shares of the way through the values."""
SHOWN = (0.15, 0.5, 0.85)
SHIFT = 0.27  # the largest, as a share of the image's height
OCTAVES = 0.9  # of the largest scale; the smallest is as far below 1
TURN = 180  # degrees


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__,
        "invariance",
        layers=None,
        usual="the first convolution and the last hidden layer",
    )
    add_classes(result)
    result.add_argument(
        "--show", type=positive, default=5, metavar="N", help="images, each a curve (default: 5)"
    )
    result.add_argument(
        "--steps",
        type=positive,
        default=37,
        metavar="N",
        help="values of each transform (default: 37)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Transform some images by more and more, see how far their features move, draw."""
    model = model_from(args)
    images = named(args, images_from(args, model, synthetic=200))
    if len(images) < 2:
        raise UsageError("1 image: curves are compared between images, give two or more")
    indices = choose.some(images, args.show, args.seed)
    x = choose.inputs(model, images, indices)
    first, top = first_and_top(model, images, args.layers)
    names = choose.classes_of(args, model, images)
    classes = None
    if names is not None:
        classes = [choose.class_of(model, images, i, names) for i in indices]
    rows = []
    for plan in tqdm(plans(x.shape[2], args.steps), desc="transforms", leave=False):
        result = sweep(
            model,
            x,
            [first, top],
            plan.transform,
            plan.values,
            batch_size=args.batch_size,
            progress=True,
        )
        pixels = images.preprocess.denormalize(plan.examples(x[:EXAMPLES])).cpu()
        rows.append(SweptTransform(plan.name, plan.unit, result, pixels, plan.shown(), classes))
    figure = figures.invariance(
        rows,
        first.name,
        top.name,
        names=[choose.name_of(images, i) for i in indices],
        note="" if names is None else whose_class(images, indices, names),
        heading=heading_of(args),
    )
    keys = [images.keys[i] for i in indices]
    write(figure, table(rows, keys, (first, top)), args.out, "invariance")
    for row in rows:
        print(f"{row.name}: {summary(row.result, first, top)}")


def whose_class(images: Images, indices: Sequence[int], names: Sequence[str]) -> str:
    """Which class of each image the probability is of, as `choose.class_of` says."""
    known = sum(images.labels[i] in names for i in indices)
    most_probable = "the most probable class of the original image"
    if known == len(indices):
        return "Probability: of the image's own class."
    if not known:
        return f"Probability: of {most_probable}, since no image has a label among the model's classes."
    return (
        f"Probability: of the image's own class for {known} of {len(indices)} images, of "
        f"{most_probable} for the others."
    )


def first_and_top(model: nn.Module, images: Images, layers: str | None) -> tuple[Layer, Layer]:
    """The first of the layers that are asked for and the last; else the first convolution and, as
    in the paper, what feeds the classifier.
    """
    net = choose.anatomy_of(model, images, layers or "conv")
    chosen = net.select(layers or "conv")
    top = chosen[-1]
    if layers is None:
        top = choose.hidden(net) or top
    return chosen[0], top


@dataclass(frozen=True)
class Plan:
    """One kind of transform, and the values that are swept.

    Attributes:
        name: in the figure; ``unit`` what its values are in.
        transform: from a value to what transforms images.
        values: in ascending order.
    """

    name: str
    unit: str
    transform: Callable[[float], Translate | Rotate | Scale]
    values: list[float]

    def shown(self) -> list[float]:
        """The values of the examples."""
        last = len(self.values) - 1
        return [self.values[round(share * last)] for share in SHOWN]

    def examples(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) under the values that are shown: (n, values, c, h, w)."""
        return torch.stack([self.transform(value)(x) for value in self.shown()], dim=1)


def plans(height: int, steps: int) -> list[Plan]:
    """Shifts, scales and turns of images of this height, in so many steps each."""
    shift = round(height * SHIFT)
    scales = [2**octaves for octaves in spaced(OCTAVES, steps)]
    return [
        Plan("vertical translation", "pixels", Translate, spaced(shift, steps)),
        Plan("scale", "ratio", Scale, scales),
        Plan("rotation", "degrees", Rotate, spaced(TURN, steps)),
    ]


def spaced(reach: float, steps: int) -> list[float]:
    """Values from -reach to reach, whole numbers where that is wide; 0 alone for one step."""
    if steps == 1:
        return [0.0]
    values = [-reach + 2 * reach * i / (steps - 1) for i in range(steps)]
    if 2 * reach > steps:
        return [float(round(value)) for value in values]
    return values


def table(
    rows: Sequence[SweptTransform], keys: Sequence[str], layers: Sequence[Layer]
) -> list[dict[str, Any]]:
    """A row for each transform, value and image."""
    result = []
    for row in rows:
        for v, value in enumerate(row.result.values):
            for i, key in enumerate(keys):
                measures = measured(row, layers, i, v)
                result.append({"transform": row.name, "value": value, "image": key} | measures)
    return result


def measured(row: SweptTransform, layers: Sequence[Layer], image: int, v: int) -> dict[str, float]:
    """What the figure shows of one image under the value of index v."""
    measures = {}
    for layer in layers:
        measures[f"distance {layer}"] = float(row.result.distances[layer.name][image, v])
        measures[f"relative {layer}"] = float(row.result.relative(layer.name)[image, v])
    if row.classes is not None and row.result.probabilities is not None:
        measures["probability"] = float(row.result.probabilities[image, v, row.classes[image]])
    return measures


def summary(result: SweepResult, first: Layer, top: Layer) -> str:
    """How far features have moved at the values next to the middle one, as a share of their own
    length.
    """
    middle = len(result.values) // 2
    near = [i for i in (middle - 1, middle + 1) if 0 <= i < len(result.values)]
    if not near:
        return "one value alone: give more steps to see features move"
    low, high = (float(result.relative(layer.name)[:, near].mean()) for layer in (first, top))
    return (
        f"at the smallest step features move by {low:.0%} of their length in {first}, "
        f"{high:.0%} in {top}"
    )


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
