"""Invariance (figure 5 of the paper): how far features move while images are shifted, scaled and
turned.

    python scripts/invariance.py                                  # zfmini, synthetic images
    python scripts/invariance.py --model alexnet --weights DEFAULT --images photos/ --layers
    features.0,classifier.4

A row for each transform: examples, the distance between the features of the original and the
    transformed image in the first and in
the last of the layers, and the probability of the class. What comes in from outside an image is
grey."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import choose
import torch
from shared import parser, run, write
from torch import nn
from tqdm import tqdm

from featviz import Images, Rotate, Scale, SweepResult, Translate, figures, sweep
from featviz.cli.arguments import images_from, model_from, positive
from featviz.errors import UsageError
from featviz.figures import SweptTransform

EXAMPLES = 3


def main(args: argparse.Namespace) -> None:
    model = model_from(args)
    images = images_from(args, model, synthetic=200)
    if len(images) < 2:
        raise UsageError("one image: curves are compared between images, give two or more")
    picked = choose.some(images, args.show, args.seed)
    x = choose.inputs(model, images, picked)
    first, top = ends(model, images, args.layers)
    names = None if args.partial else choose.classes_of(model, images)
    if names is None:
        print(
            "the classifier is not trained, or there is none: no classes are shown", file=sys.stderr
        )
    classes = None if names is None else [choose.class_of(model, images, i, names) for i in picked]
    reach = round(x.shape[2] * 0.27)
    plans = [
        ("vertical translation", "pixels", Translate, spaced(-reach, reach, args.steps)),
        ("scale", "ratio", Scale, [2**v for v in spaced(-0.9, 0.9, args.steps)]),
        ("rotation", "degrees", Rotate, spaced(-180, 180, args.steps)),
    ]
    rows = []
    for name, unit, transform, values in tqdm(plans, desc="transforms", leave=False):
        result = sweep(
            model, x, [first, top], transform, values, batch_size=args.batch_size, progress=True
        )
        shown = [values[round(at * (len(values) - 1))] for at in (0.15, 0.5, 0.85)]
        examples = torch.stack(
            [transform(value)(x[:EXAMPLES]) for value in shown], 1
        )  # (e, e, c, h, w)
        rows.append(
            SweptTransform(
                name, unit, result, images.preprocess.denormalise(examples).cpu(), shown, classes
            )
        )
    figure = figures.invariance(
        rows, first, top, names=[choose.name(images, i) for i in picked], heading=args.model
    )
    keys = [images.keys[i] for i in picked]
    write(figure, numbers(rows, keys, first, top), args.out, "invariance")
    for row in rows:
        print(f"{row.name}: {summary(row.result, first, top)}")


def spaced(low: float, high: float, steps: int) -> list[float]:
    """Whole numbers where the range is wide."""
    values = [low + (high - low) * i / (steps - 1) for i in range(steps)]
    return [float(round(v)) for v in values] if high - low > steps else values


def ends(model: nn.Module, images: Images, pattern: str) -> tuple[str, str]:
    """The first of the layers and the last; of all convolutions, the first and, as in the paper,
    what feeds the classifier.
    """
    names = [info.name for info in choose.taking_part(model, images, pattern)]
    return names[0], (choose.hidden(model, images) if pattern == "conv" else None) or names[-1]


def numbers(
    rows: Sequence[SweptTransform], keys: Sequence[str], first: str, top: str
) -> list[dict[str, object]]:
    """A row for each transform, value and image."""
    found: list[dict[str, object]] = []
    for row in rows:
        for v, value in enumerate(row.result.values):
            for i, key in enumerate(keys):
                entry: dict[str, object] = {"transform": row.name, "value": value, "image": key}
                for layer in (first, top):
                    entry |= {f"distance {layer}": float(row.result.distances[layer][i, v])}
                    entry |= {f"relative {layer}": float(row.result.relative(layer)[i, v])}
                if row.classes is not None and row.result.probabilities is not None:
                    entry["probability"] = float(row.result.probabilities[i, v, row.classes[i]])
                found.append(entry)
    return found


def summary(result: SweepResult, first: str, top: str) -> str:
    """How far features have moved at the smallest transform, in parts of their own length."""
    middle = len(result.values) // 2
    near = [i for i in (middle - 1, middle + 1) if 0 <= i < len(result.values)]
    shares = [float(result.relative(layer)[:, near].mean()) for layer in (first, top)]
    return f"at the smallest step features move by {shares[0]:.0%} of their length in {first}, {shares[1]:.0%} in {top}"


arguments = parser(__doc__, "invariance")
arguments.add_argument(
    "--show", type=positive, default=5, metavar="N", help="images, each a curve (default: 5)"
)
arguments.add_argument(
    "--steps", type=positive, default=37, metavar="N", help="values of each transform (default: 37)"
)

if __name__ == "__main__":
    sys.exit(run(main, arguments))
