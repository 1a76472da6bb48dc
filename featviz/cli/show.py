"""``featviz show``: one unit, large."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from featviz import figures
from featviz.cli.browser import open_page
from featviz.cli.directed import directed
from featviz.cli.provenance import heading_of
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, scanned
from featviz.errors import LayerError
from featviz.forward import Forward
from featviz.methods.project_exemplars import project_exemplars
from featviz.records.scan import MANIFEST, Scan
from featviz.units import Layer


def run(args: argparse.Namespace) -> None:
    """Scan, project, draw, and print where the figure is."""
    out = args.out or Path("outputs") / slug(args.model)
    with in_turn(out):
        model, forward = network_from(args)
        with directed(args, model):
            path = _draw(args, model, forward, out)
    print(path)
    open_page(args, path)


def _draw(args: argparse.Namespace, model: nn.Module, forward: Forward | None, out: Path) -> Path:
    layer, channel = args.unit

    def check(layers: list[Layer]) -> None:
        own = next((other for other in layers if other.name == layer), None)
        if own is None:
            raise LayerError(f"{layer!r} is the name of no layer: give a unit such as conv5:17")
        own.unit(channel)

    images = images_from(args, model, forward=forward)
    folder, args.layers = _record(args, layer, out)
    try:
        result = scanned(args, model, images, folder, check, forward=forward)
    except LayerError as error:
        raise LayerError(str(error)) from error  # the unit names the layer, and no option
    exemplars = project_exemplars(
        model,
        images,
        result[layer],
        [channel],
        rules=args.rule,
        forward=forward,
        memory=args.memory,
        progress=not args.quiet,
    )
    if not args.full_fields:
        exemplars = exemplars.focused()
    figure = figures.unit(
        exemplars, channel, result.listing, views=args.view, heading=heading_of(args)
    )
    return figures.save(figure, out / f"{slug(layer)}-{channel}.png")


def _record(args: argparse.Namespace, layer: str, out: Path) -> tuple[Path, list[str]]:
    """The folder of a scan of this layer, and all layers of the scan: that of a grid, or its own."""
    if not args.fresh and (out / MANIFEST).exists():
        recorded = Scan.load(out)
        if layer in recorded:
            return out, list(recorded)
    return out / slug(layer), [layer]
