"""The grey square (figure 7 of the paper): what an image's strongest feature map, and the
classifier, make of it when covered.

    python scripts/occlusion.py                                   # zfmini, synthetic images
    python scripts/occlusion.py --model alexnet --weights DEFAULT --images photos/ --layers
    features.10 --show 3

For each image it plots, by the position of the square, the total response of the feature map that
responds most in the image, and the probability of its class; the map's projection in this image and
in those that excite it most; and the most probable class. The class is the folder an image lies in
where the folders, sorted, are as many as the model's classes, and else the most probable one."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import choose
import torch
from shared import parser, run, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Images, Unit, capture, figures, occlude, project
from featviz.cli.arguments import images_from, model_from, positive
from featviz.errors import UsageError
from featviz.figures import OccludedImage


def main(args: argparse.Namespace) -> None:
    model = model_from(args)
    images = images_from(args, model, synthetic=200)
    with_maps = [
        info.name for info in choose.taking_part(model, images, args.layers) if len(info.shape) == 3
    ]
    if not with_maps:
        raise UsageError(f"--layers {args.layers}: none of them has maps")
    layer = choose.rectified(model, images, with_maps[-1])
    classes = None if args.partial else choose.classes_of(model, images)
    if classes is None:
        print(
            "the classifier is not trained, or there is none: no classes are shown", file=sys.stderr
        )
    sums = responses(model, images, layer, args.batch_size)
    rows, numbers = [], []
    for i in tqdm(chosen(images, args), desc="images", leave=False):
        rows.append(occluded(model, images, i, layer, sums, classes, args))
        numbers.append(measured(rows[-1], images.keys[i], classes))
    figure = figures.occlusion(rows, classes=classes, heading=args.model)
    write(figure, numbers, args.out, "occlusion")


def chosen(images: Images, args: argparse.Namespace) -> list[int]:
    """Which images are shown: these, or some drawn at random."""
    if args.only is None:
        return choose.some(images, args.show, args.seed)
    wrong = [key for key in args.only.split(",") if key not in images.keys]
    if wrong:
        raise UsageError(f"no image {wrong[0]!r}; the first is {images.keys[0]!r}")
    return [images.keys.index(key) for key in args.only.split(",")]


def responses(model: nn.Module, images: Images, layer: str, batch_size: int) -> Tensor:
    """Every image's total response of each map, (images, channels)."""
    found = []
    with (
        torch.no_grad(),
        capture(
            model.eval(), [layer], reduce=lambda name, output: output.sum((2, 3)).cpu()
        ) as acts,
    ):
        starts = range(0, len(images), batch_size)
        for start in tqdm(starts, desc="responses", leave=False):
            model(choose.inputs(model, images, range(start, min(start + batch_size, len(images)))))
            found.append(acts[layer])
    return torch.cat(found)


def occluded(
    model: nn.Module,
    images: Images,
    i: int,
    layer: str,
    sums: Tensor,
    classes: list[str] | None,
    args: argparse.Namespace,
) -> OccludedImage:
    """One image under the square, with its strongest map and the images that excite that map most."""
    pixels, channel = images[i], int(sums[i].argmax())
    scores: dict[str, Any] = {"response": Unit(layer, channel, at="map")}
    if classes is not None:
        scores["probability"] = choose.class_of(model, images, i, classes)
    side = min(pixels.shape[1:])
    maps = occlude(
        model,
        choose.inputs(model, images, [i]),
        scores,
        window=args.window or round(side / 4),
        stride=args.stride or max(1, round(side / 24)),
        fill=args.fill,
        preprocess=images.preprocess,
        progress=True,
    )
    others = [j for j in sums[:, channel].argsort(descending=True).tolist() if j != i][:3]
    x = choose.inputs(model, images, [i, *others])
    projections = project(model, x, [Unit(layer, channel)] * len(x)).cpu()
    label = None if classes is None else classes[scores["probability"]]
    shown = None if classes is None else "probability"
    return OccludedImage(
        pixels,
        maps,
        "response",
        f"{layer}, map {channel}",
        projections,
        label,
        shown,
        images.keys[i].rpartition("/")[2],
    )


def measured(row: OccludedImage, key: str, classes: list[str] | None) -> dict[str, object]:
    """What the figure shows of one image, in numbers."""
    maps = row.maps
    numbers: dict[str, object] = {
        "image": key,
        "map": row.unit,
        "windows": maps.boxes[..., 0].numel(),
    }
    for name, values in maps.scores.items():
        worst = divmod(int(values.argmin()), values.shape[1])
        numbers |= {
            f"{name}_whole": maps.baseline[name],
            f"{name}_lowest": float(values.min()),
            f"{name}_mean": float(values.mean()),
        }
        numbers |= {f"{name}_lowest_at": " ".join(map(str, maps.boxes[worst].tolist()))}
    if classes is not None and maps.classes is not None and maps.most_probable is not None:
        changed = int((maps.classes != maps.most_probable).sum())
        numbers |= {
            "class": row.label,
            "most_probable": classes[maps.most_probable],
            "windows_with_another_class": changed,
        }
    return numbers


arguments = parser(__doc__, "occlusion")
arguments.add_argument(
    "--show", type=positive, default=4, metavar="N", help="images in the figure (default: 4)"
)
arguments.add_argument(
    "--only",
    metavar="KEYS",
    help="these images, with commas between them, in place of some drawn at random",
)
arguments.add_argument(
    "--window",
    type=positive,
    metavar="PIXELS",
    help="side of the square (default: a quarter of the image's)",
)
arguments.add_argument(
    "--stride",
    type=positive,
    metavar="PIXELS",
    help="its step (default: a 24th of the image's side)",
)
arguments.add_argument(
    "--fill", default="grey", choices=("grey", "mean", "blur"), help="what covers (default: grey)"
)

if __name__ == "__main__":
    sys.exit(run(main, arguments))
