"""The options of ``featviz export``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_channels,
    add_directions,
    add_examples,
    add_image_arguments,
    add_k,
    add_layers,
    add_model_arguments,
    add_output,
    add_score,
)
from featviz.errors import UsageError
from featviz.names import FORMATS


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
    parser.set_defaults(goes_on="What was scanned is kept: the same command goes on from there.")


def masks(text: str) -> str:
    """The name of a way to make masks."""
    from featviz.exports._masks import masks_of

    try:
        return masks_of(text).name
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
