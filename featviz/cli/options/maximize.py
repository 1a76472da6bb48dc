"""The options of ``featviz maximize``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_directions,
    add_examples,
    add_layers,
    add_memory,
    add_model_arguments,
    add_output,
)
from featviz.cli.words import height_width, numbers, positive
from featviz.names import MAXIMIZE_MEMORY, PARAMETERIZATIONS, STEPS


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_layers(parser)
    add_directions(parser)
    parser.add_argument(
        "--channels",
        type=numbers,
        help="these units of each layer, such as 0,5,17 (default: all)",
    )
    parser.add_argument(
        "--classes",
        type=numbers,
        help="images of these classes, such as 3,50; of layers, too, where --layers is given",
    )
    parser.add_argument(
        "--size",
        type=height_width,
        metavar="PIXELS",
        help="size of the images (default: a layer's receptive field and an eighth of it)",
    )
    parser.add_argument(
        "--parameterization",
        choices=PARAMETERIZATIONS,
        help="what an image is made of (default: fourier, for classes with larger areas of a color)",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=STEPS,
        help=f"of gradient ascent (default: {STEPS})",
    )
    parser.add_argument(
        "--variants", type=positive, default=1, help="images of each unit (default: 1)"
    )
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        help="how much the variants of a unit are to differ, such as 1 (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="images at once, at most (default: 16)"
    )
    add_memory(parser, MAXIMIZE_MEMORY, "images")
    parser.add_argument("--fresh", action="store_true", help="make everything again")
    add_output(parser, "folder for pictures and records (default: outputs/MODEL-maximized)")
    add_examples(
        parser,
        "featviz maximize --layers conv3 --channels 0,5,17",
        "featviz maximize --model alexnet --weights DEFAULT --layers 'features.*' --parameterization maco",
        "featviz maximize --model alexnet --weights DEFAULT --classes 3,50 --variants 4 --diversity 1",
    )
    parser.set_defaults(
        goes_on="Finished batches of units are kept: the same command goes on from there."
    )
