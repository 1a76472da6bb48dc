"""An image's activation maps, layer by layer, the strongest first."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from shared import parser, run, write
from torch import Tensor
from tqdm import tqdm

from featviz import LayerInfo, anatomy, capture, figures, layers
from featviz.cli.arguments import images_from, model_from, positive
from featviz.errors import LayerError
from featviz.fields.anatomy import parameter_of

Layer = tuple[LayerInfo, list[int], Tensor]


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "activation_maps")
    found.add_argument(
        "--pages",
        type=positive,
        default=3,
        metavar="N",
        help="images, a page for each (default: 3)",
    )
    found.add_argument(
        "--maps", type=positive, default=12, metavar="N", help="maps of each layer (default: 12)"
    )
    return found


def main(args: argparse.Namespace) -> None:
    """A page for each image."""
    model = model_from(args)
    images = images_from(args, model, synthetic=args.pages).spread(args.pages)
    names = layers(model, args.layers)
    for i in tqdm(range(len(images)), desc="images", unit="image", leave=False):
        x = images.preprocess.normalise(images[i])
        infos = anatomy(model, (int(x.shape[0]), int(x.shape[1]), int(x.shape[2])), only=set(names))
        used = [
            info for info in infos.values() if {info.name, info.name.partition("@")[0]} & set(names)
        ]
        with torch.no_grad(), capture(model, [info.call for info in used]) as acts:
            model(x[None].to(parameter_of(model)))
        found = [
            strongest(info, acts[info.call][0].float().cpu(), args.maps)
            for info in used
            if len(info.shape) == 3
        ]
        if not found:
            raise LayerError(f"layers {args.layers!r}: none of them returns maps (n, c, h, w)")
        title = f"{args.model}: activation maps of {images.keys[i]}"
        stem = "activation_maps" if len(images) == 1 else f"activation_maps-{i + 1}"
        write(
            figures.activation_maps(images[i], found, title=title, kept=args.maps),
            _rows(found, images.keys[i]),
            args.out,
            stem,
        )


def strongest(info: LayerInfo, maps: Tensor, n: int) -> Layer:
    """The n maps with the largest values, in order."""
    order = maps.amax(dim=(1, 2)).argsort(descending=True, stable=True)[:n]
    return info, order.tolist(), maps[order]


def _rows(found: list[Layer], key: str) -> list[dict[str, Any]]:
    return [
        {
            "image": key,
            "layer": info.name,
            "rank": rank + 1,
            "map": channel,
            "largest": float(plane.max()),
            "mean": float(plane.mean()),
            "share above zero": float((plane > 0).double().mean()),
        }
        for info, channels, maps in found
        for rank, (channel, plane) in enumerate(zip(channels, maps, strict=True))
    ]


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
