"""An image's activation maps, layer by layer, the strongest first.

    python scripts/activation_maps.py                             # zfmini, synthetic images
    python scripts/activation_maps.py --model alexnet --weights DEFAULT --images photos/ --pages 1

Each image has a page of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import choose
from shared import heading_of, images_from, model_from, parser, positive, run, write
from torch import Tensor
from tqdm import tqdm

from featviz import Layer, figures, responses
from featviz.figures import LayerMaps


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "activation_maps")
    result.add_argument(
        "--pages",
        type=positive,
        default=3,
        metavar="N",
        help="images, a page for each (default: 3)",
    )
    result.add_argument(
        "--maps", type=positive, default=12, metavar="N", help="maps of each layer (default: 12)"
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Read an image's maps, keep the strongest, draw the page; image after image."""
    model = model_from(args)
    images = images_from(args, model, synthetic=args.pages).spread(args.pages)
    layers = choose.with_maps(choose.anatomy_of(model, images, args.layers), args.layers)
    for i, key in enumerate(tqdm(images.keys, desc="images", unit="image", leave=False)):
        maps = responses(model, images.subset([i]), layers, reduce="map", strict=True)
        shown = [strongest(layer, maps[layer.name][0], args.maps) for layer in layers]
        figure = figures.activation_maps(
            images[i], shown, kept=args.maps, heading=f"{heading_of(args)}, {key}"
        )
        write(figure, table(shown, key), args.out, stem_of(i, len(images)))


def strongest(layer: Layer, maps: Tensor, n: int) -> LayerMaps:
    """The n maps of (c, h, w) with the largest values, in order."""
    order = maps.amax(dim=(1, 2)).argsort(descending=True, stable=True)[:n]
    return LayerMaps(layer, order.tolist(), maps[order].float())


def stem_of(index: int, pages: int) -> str:
    """The name of a page, numbered where there are several."""
    if pages == 1:
        return "activation_maps"
    return f"activation_maps-{index + 1}"


def table(shown: Sequence[LayerMaps], key: str) -> list[dict[str, Any]]:
    """A row for each map."""
    rows = []
    for layer, channels, maps in shown:
        for rank, (channel, plane) in enumerate(zip(channels, maps, strict=True), start=1):
            row = {
                "image": key,
                "layer": layer.name,
                "rank": rank,
                "map": channel,
                "largest": float(plane.max()),
                "mean": float(plane.mean()),
                "share above zero": float((plane > 0).double().mean()),
            }
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
