"""The options of ``featviz show``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_directions,
    add_examples,
    add_full_fields,
    add_image_arguments,
    add_k,
    add_memory,
    add_model_arguments,
    add_output,
    add_rules,
    add_score,
    add_views,
)
from featviz.cli.browser import add_open


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("unit", type=unit, metavar="LAYER:UNIT", help="such as conv5:17")
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_directions(parser)
    add_rules(parser)
    add_views(parser)
    add_full_fields(parser)
    add_k(parser)
    add_score(parser)
    add_memory(parser)
    parser.add_argument("--fresh", action="store_true", help="scan again even if there is a record")
    add_open(parser, "the figure")
    add_output(
        parser, "folder for the figure, and of a grid whose scan is used (default: outputs/MODEL)"
    )
    add_examples(
        parser,
        "featviz show conv5:17",
        "featviz show features.10:3 --model alexnet --weights DEFAULT --images photos/ --rule deconvnet,lrp",
    )
    parser.set_defaults(goes_on="What was scanned is kept: the same command goes on from there.")


def unit(text: str) -> tuple[str, int]:
    """(layer, channel), from conv5:17."""
    layer, _, channel = text.rpartition(":")
    if not layer or not channel.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a unit such as conv5:17")
    return layer, int(channel)
