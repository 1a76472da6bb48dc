"""Correspondence (table 1 of the paper): does the network relate the same part, such as an eye, in
several images?

    python scripts/correspondence.py                              # zfmini, synthetic faces
    python scripts/correspondence.py --model alexnet --weights DEFAULT --images faces/ --boxes boxes.json

The same part is covered in every image. Where the changes that this makes in a layer's features are
more alike, from image to image, than those that a square of the same size at a random position
makes, the layer relates the parts to each other. Without --layers these are the last convolution and
the last hidden layer, the paper's 5 and 7.

boxes.json gives each part's box, in pixels of the model's input, bottom and right not included:
{"anna.jpg": {"left eye": [top, left, bottom, right], "nose": [...]}, "ben.jpg": {...}}
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

import choose
from shared import add_fill, heading_of, images_from, model_from, parser, run, write
from torch import nn

from featviz import Box, Images, Layer, correspondence, figures
from featviz.data import Sample, SyntheticImages
from featviz.errors import UsageError
from featviz.methods.correspondence import read_boxes

RANDOM = "random position"
"""What the square at random is called beside the parts."""
EXAMPLES = 6
Boxes = dict[str, Box]
"""By part."""
Point = tuple[int, int]


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__,
        "correspondence",
        layers=None,
        usual="the last convolution and the last hidden layer",
    )
    result.add_argument("--boxes", metavar="JSON", help="the boxes of the parts in your own images")
    add_fill(result)
    return result


def main(args: argparse.Namespace) -> None:
    """Find the parts, cover them, compare the changes, draw."""
    if (args.images is None) != (args.boxes is None):
        raise UsageError(
            "--images and --boxes go together: the boxes give the parts' positions in the images"
        )
    model = model_from(args)
    images = images_from(args, model, synthetic=800)
    boxes = boxes_of(images, args)
    indices = list(boxes)
    by_part = of_each_part(list(boxes.values()))
    result = correspondence(
        model,
        choose.inputs(model, images, indices),
        layers_of(model, images, args.layers),
        by_part,
        fill=args.fill,
        preprocess=images.preprocess,
        batch_size=args.batch_size,
        progress=True,
    )
    examples = choose.stacked(images, indices[:EXAMPLES])
    figure = figures.correspondence(
        result, examples, by_part, chance=RANDOM, heading=heading_of(args)
    )
    rows = result.rows()
    write(figure, rows, args.out, "correspondence")
    for row in rows:
        spread = f"{row['mean']:.4f} ± {row['deviation']:.4f}"
        print(f"{row['layer']:24} {row['part']:16} {spread} over {row['images']} images")


def layers_of(model: nn.Module, images: Images, layers: str | None) -> list[Layer]:
    """Those that are asked for; else the last convolution and the last hidden layer, the paper's
    layers 5 and 7.

    Before their rectifiers: behind them most features do not change, and a distance counts how many
    do rather than how.
    """
    net = choose.anatomy_of(model, images, layers or "conv")
    if layers is not None:
        return net.select(layers)
    chosen = choose.with_maps(net, "conv")[-1:]
    hidden = choose.hidden(net)
    if hidden is not None:
        chosen.append(hidden)
    return chosen


def boxes_of(images: Images, args: argparse.Namespace) -> dict[int, Boxes]:
    """By image the boxes that are covered, one at random among them."""
    if args.boxes is None:
        return synthetic_faces(images)
    return own_boxes(images, args)


def of_each_part(boxes: Sequence[Boxes]) -> dict[str, list[Box]]:
    """The boxes of images as a list for each part."""
    by_part: dict[str, list[Box]] = {part: [] for part in boxes[0]}
    for own in boxes:
        for part, box in own.items():
            by_part[part].append(box)
    return by_part


# --- where parts are


def synthetic_faces(images: Images) -> dict[int, Boxes]:
    """By image the faces that lie inside it: a square around each part and one at random on the
    face, all as large as an eye.

    Raises:
        UsageError: fewer than two.
    """
    height, width = images[0].shape[1:]
    drawn = SyntheticImages(len(images), size=height)
    boxes = {}
    for i, label in enumerate(images.labels):
        if label is None or not label.endswith("face"):
            continue
        sample = drawn.sample(i)
        squares = squares_around(sample)
        if all(box == box.clip(Box(0, 0, height, width)) for box in squares.values()):
            on_face = [(int(y), int(x)) for y, x in sample.mask.nonzero().tolist()]
            at_random = random_box(squares, on_face, (height, width), seed=i)
            boxes[i] = squares | {RANDOM: at_random}
    if len(boxes) < 2:
        raise UsageError(
            f"{len(boxes)} complete faces among {len(images)} synthetic images, two are needed: "
            "give a larger --limit"
        )
    return boxes


def squares_around(sample: Sample) -> Boxes:
    """A square around the middle of each part of a synthetic image, all as large as the largest
    part.
    """
    side = max(max(box.height, box.width) for box in sample.parts.values())
    squares = {}
    for part, box in sample.parts.items():
        middle = (box.top + box.bottom) // 2, (box.left + box.right) // 2
        squares[part] = around(middle, side, side)
    return squares


def own_boxes(images: Images, args: argparse.Namespace) -> dict[int, Boxes]:
    """By image the user's boxes, and one at random in each.

    Raises:
        UsageError: boxes of an image that is not there, or not the same parts in all.
    """
    boxes = read_boxes(args.boxes)
    expected = next(iter(boxes.values()))
    result = {}
    for key, own in boxes.items():
        if key not in images.keys:
            raise UsageError(
                f"{args.boxes!r} names {key!r}, which is not among the images "
                f"(the first is {images.keys[0]!r})"
            )
        if own.keys() != expected.keys():
            raise UsageError(
                f"{args.boxes!r}: {key!r} has {', '.join(own)}, "
                f"the first image {', '.join(expected)}: give all the same"
            )
        i = images.keys.index(key)
        height, width = images[i].shape[1:]
        anywhere = [divmod(position, width) for position in range(height * width)]
        at_random = random_box(own, anywhere, (height, width), seed=args.seed + i)
        result[i] = own | {RANDOM: at_random}
    return result


def random_box(boxes: Boxes, points: Sequence[Point], size: tuple[int, int], seed: int) -> Box:
    """A box as large as one of these, around one of the points (y, x), moved into an image of this
    size where it stands out.
    """
    draw = random.Random(seed)
    like = draw.choice(list(boxes.values()))
    box = around(draw.choice(points), like.height, like.width)
    top = min(max(0, box.top), max(0, size[0] - box.height))
    left = min(max(0, box.left), max(0, size[1] - box.width))
    return Box(top, left, top + like.height, left + like.width)


def around(middle: Point, height: int, width: int) -> Box:
    """A box of this size with its middle at (y, x)."""
    top = middle[0] - height // 2
    left = middle[1] - width // 2
    return Box(top, left, top + height, left + width)


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
