"""Correspondence (table 1 of the paper): does the network know that an eye is an eye, whosever it
is?

    python scripts/correspondence.py                              # zfmini, the faces among the
    synthetic images python scripts/correspondence.py --model alexnet --weights DEFAULT --images
    faces/ --boxes boxes.json

The same part is covered in every image. Where the changes that this makes in a layer's features are
more alike, from image to image, than those that a square of the same size at a random place makes,
the layer relates the parts to each other. Without --layers these are the last convolution and the
last hidden layer, the paper's 5 and 7.

boxes.json says where the parts are, in pixels of the images as the model sees them, ends not
included: {"anna.jpg": {"left eye": [top, left, bottom, right], "nose": [...]}, "ben.jpg": {...}}
"""

from __future__ import annotations

import argparse
import random
import sys

import choose
import torch
from shared import parser, run, write
from torch import nn

from featviz import Box, Images, correspondence, figures
from featviz.cli.arguments import images_from, model_from
from featviz.data import SyntheticImages
from featviz.errors import UsageError
from featviz.methods.correspondence import read_boxes

RANDOM = "random place"


def main(args: argparse.Namespace) -> None:
    if (args.images is None) != (args.boxes is None):
        raise UsageError(
            "--images and --boxes go together: the boxes say where the parts are in the images"
        )
    model = model_from(args)
    images = images_from(args, model, synthetic=800)
    found = synthetic_faces(images) if args.boxes is None else own_boxes(images, args)
    picked, boxes = (
        list(found),
        {part: [parts[part] for parts in found.values()] for part in next(iter(found.values()))},
    )
    layers = (
        [info.name for info in choose.taking_part(model, images, args.layers)]
        if args.layers != "conv"
        else paper(model, images)
    )
    x = choose.inputs(model, images, picked)
    result = correspondence(
        model,
        x,
        boxes,
        layers,
        fill=args.fill,
        preprocess=images.preprocess,
        batch_size=args.batch_size,
        progress=True,
    )
    examples = torch.stack([images[i] for i in picked[:6]])
    figure = figures.correspondence(result, examples, boxes, chance=RANDOM, heading=args.model)
    rows = result.table()
    write(figure, rows, args.out, "correspondence")
    for row in rows:
        print(
            f"{row['layer']:24} {row['part']:14} {row['mean']:.4f} ± {row['deviation']:.4f} over {row['images']} images"
        )


def paper(model: nn.Module, images: Images) -> list[str]:
    """The last convolution and the last hidden layer: the paper's layers 5 and 7.

    Before their rectifiers: behind them most features do not change, and a distance counts how many
        do rather than how.
    """
    last = [
        info.name for info in choose.taking_part(model, images, "conv") if len(info.shape) == 3
    ][-1]
    names = [last, choose.hidden(model, images)]
    return [name for name in names if name is not None]


def synthetic_faces(images: Images) -> dict[int, dict[str, Box]]:
    """The faces that lie within the image: a square around each part and one at random on the face,
    all as large as an eye.
    """
    size = images[0].shape[1], images[0].shape[2]
    data, found = SyntheticImages(len(images), size=size[0]), {}
    for i, label in enumerate(images.labels):
        if label is None or not label.endswith("face"):
            continue
        sample = data.sample(i)
        side = max(max(box.height, box.width) for box in sample.parts.values())
        middles = {
            part: ((box.top + box.bottom) // 2, (box.left + box.right) // 2)
            for part, box in sample.parts.items()
        }
        squares = {part: around(*middle, side, side) for part, middle in middles.items()}
        if all(box == box.clip(Box(0, 0, *size)) for box in squares.values()):
            places = [(int(y), int(x)) for y, x in sample.mask.nonzero().tolist()]
            found[i] = squares | {RANDOM: random_box(squares, places, size, i)}
    if len(found) < 2:
        raise UsageError(
            f"{len(found)} whole faces among {len(images)} synthetic images, two are needed: give a larger --limit"
        )
    return found


def own_boxes(images: Images, args: argparse.Namespace) -> dict[int, dict[str, Box]]:
    """The user's boxes by image, and a square at random in each."""
    boxes = read_boxes(args.boxes)
    parts = next(iter(boxes.values()))
    found: dict[int, dict[str, Box]] = {}
    for key, own in boxes.items():
        if key not in images.keys:
            raise UsageError(
                f"{args.boxes!r} names {key!r}, which is not among the images (the first is {images.keys[0]!r})"
            )
        if own.keys() != parts.keys():
            raise UsageError(
                f"{args.boxes!r}: {key!r} has {', '.join(own)}, the first image {', '.join(parts)}: give all the same"
            )
        i = images.keys.index(key)
        height, width = images[i].shape[1:]
        places = [(y, x) for y in range(height) for x in range(width)]
        found[i] = own | {RANDOM: random_box(own, places, (height, width), args.seed + i)}
    return found


def random_box(
    parts: dict[str, Box], places: list[tuple[int, int]], size: tuple[int, int], seed: int
) -> Box:
    """A box as large as one of the parts, around one of these places, moved into the image where it
    stands out.
    """
    draw = random.Random(seed)
    like, (y, x) = draw.choice(list(parts.values())), draw.choice(places)
    box = around(y, x, like.height, like.width)
    top = min(max(0, box.top), max(0, size[0] - box.height))
    left = min(max(0, box.left), max(0, size[1] - box.width))
    return Box(top, left, top + like.height, left + like.width)


def around(y: int, x: int, height: int, width: int) -> Box:
    top, left = y - height // 2, x - width // 2
    return Box(top, left, top + height, left + width)


arguments = parser(__doc__, "correspondence")
arguments.add_argument("--boxes", metavar="JSON", help="where the parts are in your own images")
arguments.add_argument(
    "--fill", default="grey", choices=("grey", "mean", "blur"), help="what covers (default: grey)"
)

if __name__ == "__main__":
    sys.exit(run(main, arguments))
