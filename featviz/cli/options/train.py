"""The options of ``featviz train``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import add_examples, add_image_arguments, add_model_arguments, add_output
from featviz.cli.words import numbers, positive
from featviz.names import PAPER_EPOCHS


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="images to measure accuracy on (default: a tenth of the others)",
    )
    parser.add_argument(
        "--epochs", type=positive, default=16, help="passes over the images (default: 16)"
    )
    parser.add_argument(
        "--checkpoints",
        type=numbers,
        default=list(PAPER_EPOCHS),
        help="epochs to save (default: those of figure 4)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=0.02, help="the highest (default: 0.02)"
    )
    parser.add_argument("--weight-decay", type=float, default=2e-3, help="default: 0.002")
    parser.add_argument(
        "--radius",
        type=float,
        default=0.1,
        help="renormalise filters to this RMS, 0 for never (default: 0.1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of images and of dropout (default: 0)"
    )
    add_output(parser, "where checkpoints go (default: outputs/train-MODEL)")
    parser.add_argument(
        "--fresh", action="store_true", help="remove the checkpoints that are there already"
    )
    add_examples(
        parser,
        "featviz train",
        "featviz train --model zfnet --images photos/ --epochs 64",
    )
    parser.set_defaults(batch_size=64, goes_on="The checkpoints of finished epochs are kept.")
