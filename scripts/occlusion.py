"""Occlusion by a gray square (figure 7 of the paper): an image's strongest feature map and its
classification while a window is covered.

    python scripts/occlusion.py                                   # zfmini, synthetic images
    python scripts/occlusion.py --model alexnet --weights DEFAULT --images photos/ --layers features.10 --show 3

For each image it plots, by the position of the square, the total response of the feature map that
responds most in the image, and the probability of its class; the map's projection in this image and
in those that excite it most; and the most probable class. The layer is the last of --layers, behind
its rectifier. The class is the folder an image lies in where the folders, sorted, are as many as the
model's classes, and else the most probable one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import choose
from classes import add_classes, named
from shared import add_fill, heading_of, images_from, model_from, parser, positive, run, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Images, Layer, figures, occlude, project, responses
from featviz.errors import UsageError
from featviz.figures import OccludedImage

RESPONSE, PROBABILITY = "response", "probability"
"""The names of the scores."""
OTHERS = 3
"""So many other images, those that excite the map most, are projected beside each."""


OTHER_MAPS = 5
"""So many maps that respond where the strongest does are projected, too: whether projections tell them
apart."""
RULE = "deconvnet"


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "occlusion")
    add_classes(result)
    result.add_argument(
        "--show", type=positive, default=4, metavar="N", help="images in the figure (default: 4)"
    )
    result.add_argument(
        "--only",
        metavar="KEYS",
        help="these images, separated by commas, instead of random ones",
    )
    result.add_argument(
        "--window",
        type=positive,
        metavar="PIXELS",
        help="side of the square (default: a quarter of the image's)",
    )
    result.add_argument(
        "--stride",
        type=positive,
        metavar="PIXELS",
        help="its step (default: a 24th of the image's side)",
    )
    add_fill(result)
    return result


def main(args: argparse.Namespace) -> None:
    """Choose images, cover each window by window, draw."""
    model = model_from(args)
    images = named(args, images_from(args, model, synthetic=200))
    net = choose.anatomy_of(model, images, args.layers)
    layer = choose.rectified(net, choose.with_maps(net, args.layers)[-1])
    indices = chosen(images, args)
    classes = choose.classes_of(args, model, images)
    options = {"batch_size": args.batch_size, "strict": True, "progress": True}
    sums = responses(model, images, layer, reduce="sum", **options)[layer.name]
    rows = []
    table = []
    for i in tqdm(indices, desc="images", leave=False):
        row = occluded(model, images, i, layer, sums, classes, args)
        rows.append(row)
        table.append({"image": images.keys[i]} | measures(row, classes))
    figure = figures.occlusion(rows, classes=classes, heading=heading_of(args))
    write(figure, table, args.out, "occlusion")


def chosen(images: Images, args: argparse.Namespace) -> list[int]:
    """Which images are shown: these, or some drawn at random."""
    if args.only is None:
        return choose.some(images, args.show, args.seed)
    indices = []
    for key in args.only.split(","):
        if key not in images.keys:
            raise UsageError(f"no image {key!r}; the first is {images.keys[0]!r}")
        indices.append(images.keys.index(key))
    return indices


def occluded(
    model: nn.Module,
    images: Images,
    index: int,
    layer: Layer,
    sums: Tensor,
    classes: list[str] | None,
    args: argparse.Namespace,
) -> OccludedImage:
    """One image under the square, with its strongest map and the images that excite that map most.

    Args:
        sums: (images, channels), the total response of each map in each image.
    """
    channel = int(sums[index].argmax())
    scores: dict[str, Any] = {RESPONSE: layer.unit(channel, at="map")}
    label = None
    if classes is not None:
        scores[PROBABILITY] = choose.class_of(model, images, index, classes)
        label = classes[scores[PROBABILITY]]
    side = min(images[index].shape[1:])
    maps = occlude(
        model,
        choose.inputs(model, images, [index]),
        scores,
        window=args.window or max(1, round(side / 4)),
        stride=args.stride or max(1, round(side / 24)),
        over_edges=True,
        fill=args.fill,
        preprocess=images.preprocess,
        progress=True,
    )
    x = choose.inputs(model, images, [index, *most_excited(sums[:, channel], index)])
    projections = project(model, x, [layer.unit(channel)] * len(x), rule=RULE).cpu()
    others = choose.responding_beside(model, layer, channel, x[:1], OTHER_MAPS, args.seed)
    return OccludedImage(
        image=images[index],
        maps=maps,
        response=RESPONSE,
        unit=f"{layer}, map {channel}",
        projections=projections,
        label=label,
        probability=None if classes is None else PROBABILITY,
        name=images.keys[index].rpartition("/")[2],
        rule=RULE,
        others=project(model, x[0], others, rule=RULE).cpu() if others else None,
    )


def most_excited(sums: Tensor, index: int) -> list[int]:
    """The images (but this one) with the largest total response (images,), largest first."""
    order = sums.argsort(descending=True).tolist()
    return [i for i in order if i != index][:OTHERS]


def measures(row: OccludedImage, classes: Sequence[str] | None) -> dict[str, Any]:
    """What the figure shows of one image, in numbers."""
    maps = row.maps
    boxes = maps.boxes.flatten(0, 1)
    result: dict[str, Any] = {"map": row.unit, "windows": len(boxes)}
    for name, values in maps.scores.items():
        result[f"{name} uncovered"] = maps.baseline[name]
        result[f"{name} lowest"] = float(values.min())
        result[f"{name} mean"] = float(values.mean())
        box = boxes[int(values.argmin())]
        result[f"{name} lowest at"] = " ".join(map(str, box.tolist()))
    if classes is not None and maps.classes is not None and maps.most_probable is not None:
        result["class"] = row.label
        result["most probable class"] = classes[maps.most_probable]
        result["windows with another class"] = int((maps.classes != maps.most_probable).sum())
    return result


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
