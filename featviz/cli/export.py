"""``featviz export``: scan, and write the exemplars in the files that another tool reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from featviz.cli.arguments import (
    add_examples,
    add_image_arguments,
    add_k,
    add_layers,
    add_model_arguments,
    add_output,
    add_score,
    in_turn,
    report,
    scanned,
    slug,
)
from featviz.cli.channels import add_channels, channels_of, check_channels, check_choice
from featviz.cli.directed import add_directions, directed
from featviz.cli.sources import images_from, network_from
from featviz.errors import UsageError
from featviz.exports._masks import masks_of
from featviz.exports.export import FORMATS, export
from featviz.forward import Forward


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--to",
        required=True,
        choices=FORMATS,
        help="milan: arrays of images and masks; fiftyone: a data set of images with detections; "
        "semanticlens: its cache of components; csv: a table",
    )
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_directions(parser)
    add_k(parser)
    add_score(parser)
    add_channels(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice (default: 0)"
    )
    parser.add_argument(
        "--masks",
        type=masks,
        default="quantile:0.99",
        metavar="NAME",
        help="where a unit fires: quantile:0.99, above what 99 in 100 positions do not exceed; share:0.5, "
        "above half of the map's maximum; field, the receptive field (default: quantile:0.99)",
    )
    parser.add_argument("--fresh", action="store_true", help="scan again even if there is a record")
    add_output(
        parser,
        "folder for the scan and, below it, a folder for each format (default: outputs/MODEL-export)",
    )
    add_examples(
        parser,
        "featviz export --to milan --model alexnet --weights DEFAULT --images photos/ --k 15",
        "featviz export --to fiftyone --layers conv5 --max-channels 16",
        "featviz export --to csv --layers conv4,conv5",
    )
    parser.set_defaults(
        run=run, goes_on="What was scanned is kept: the same command goes on from there."
    )


def masks(text: str) -> str:
    """The name of a way to make masks."""
    try:
        return masks_of(text).name
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
