"""The options of ``featviz gallery``."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz.cli.arguments import (
    add_channels,
    add_directions,
    add_examples,
    add_full_fields,
    add_image_arguments,
    add_k,
    add_layers,
    add_maximize,
    add_memory,
    add_model_arguments,
    add_output,
    add_rules,
    add_score,
    add_spectrum,
    add_views,
)
from featviz.cli.browser import add_open
from featviz.cli.words import share


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_directions(parser)
    add_rules(parser, default=None, note="deconvnet, and lrp where it has a meaning")
    add_views(parser)
    add_full_fields(parser)
    add_k(parser)
    add_score(parser)
    add_spectrum(parser)
    add_channels(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice (default: 0)"
    )
    parser.add_argument("--title", help="heading of the pages (default: the model)")
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="GALLERY",
        help="two or more finished galleries of the same images, side by side",
    )
    parser.add_argument(
        "--match",
        action="store_true",
        help="beside each unit of the first gallery compared those that respond most alike, not those of "
        "the same number",
    )
    parser.add_argument(
        "--shard",
        type=share,
        metavar="I/N",
        help="make every N-th layer alone, from layer I on (0 is the first); when all shards are there, "
        "featviz merge makes one gallery of them, to which the same command without this adds the pages of images",
    )
    add_maximize(parser)
    add_memory(parser)
    add_open(parser, "the gallery")
    parser.add_argument("--fresh", action="store_true", help="scan and make everything again")
    add_output(parser, "the gallery's folder (default: outputs/MODEL-gallery)")
    add_examples(
        parser,
        "featviz gallery --model alexnet --weights DEFAULT --images photos/",
        "featviz gallery --layers conv4,conv5 --rule guided --out outputs/two-layers",
        "featviz gallery --compare outputs/before outputs/after --match",
        "featviz gallery --images photos/ --shard 0/4 --out outputs/photos",
        "torchrun --nproc-per-node 4 -m featviz gallery --images photos/ --out outputs/photos",
    )
    parser.set_defaults(goes_on="Finished layers are kept: the same command goes on from there.")
