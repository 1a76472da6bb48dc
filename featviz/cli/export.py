"""``featviz export``: scan, and write the exemplars in the files that another tool reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from featviz.cli.channels import channels_of, check_channels, check_choice
from featviz.cli.directed import directed
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report, scanned
from featviz.exports.export import export
from featviz.forward import Forward


def run(args: argparse.Namespace) -> None:
    """Scan, write, and print where the files are."""
    check_choice(args)
    out = args.out or Path("outputs") / f"{slug(args.model)}-export"
    with in_turn(out):
        model, forward = network_from(args)
        with directed(args, model):
            print(_exported(args, model, forward, out))


def _exported(
    args: argparse.Namespace, model: nn.Module, forward: Forward | None, out: Path
) -> Path:
    images = images_from(args, model, forward=forward)
    result = scanned(
        args,
        model,
        images,
        out / "scan",
        lambda layers: check_channels(layers, args),
        forward=forward,
        spectrum=True,  # so that one scan does for every format and all masks
    )
    report(result)
    channels = None
    if args.channels is not None or args.max_channels is not None:
        channels = {name: channels_of(layer_scan, args) for name, layer_scan in result.items()}
    return export(
        result,
        out / args.to,
        to=args.to,
        model=model,
        images=images,
        channels=channels,
        masks=args.masks,
        forward=forward,
        progress=not args.quiet,
    )
