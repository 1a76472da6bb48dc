"""The options of ``featviz features``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_checkpoint,
    add_examples,
    add_image_arguments,
    add_layers,
    add_model_arguments,
    add_output,
)
from featviz.errors import UsageError
from featviz.names import DTYPES, QUANTILE, REDUCTIONS


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    parser.add_argument(
        "--reduce",
        type=reduction,
        default="max",
        metavar="NAME",
        help=f"of each activation map: {', '.join(REDUCTIONS)} (all of it), or {QUANTILE}0.99 "
        "(default: max)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="type of the numbers (default: the model's)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin again even if there is a record"
    )
    add_checkpoint(parser)
    add_output(parser, "folder for the arrays (default: outputs/MODEL-features)")
    add_examples(
        parser,
        "featviz features --model alexnet --weights DEFAULT --images photos/",
        "featviz features --layers conv5 --reduce map --dtype float16",
    )
    parser.set_defaults(goes_on="What was computed is kept: the same command goes on from there.")


def reduction(text: str) -> str:
    """The name of a reduction."""
    from featviz.methods._reductions import reduction_of

    try:
        reduction_of(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
