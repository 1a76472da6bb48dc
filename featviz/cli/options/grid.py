"""The options of ``featviz grid``."""

from __future__ import annotations

import argparse

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
    add_views,
)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_directions(parser)
    add_rules(parser)
    parser.add_argument(
        "--smooth",
        type=int,
        default=0,
        metavar="N",
        help="average each projection over N noisy copies of its image (default: 0, the image itself)",
    )
    add_views(parser)
    add_full_fields(parser)
    add_k(parser)
    add_score(parser)
    add_channels(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice and of noise (default: 0)"
    )
    parser.add_argument(
        "--format",
        default="png",
        choices=("png", "pdf", "both"),
        help="format of the figures (default: png)",
    )
    add_maximize(parser)
    add_memory(parser)
    parser.add_argument("--fresh", action="store_true", help="scan again even if there is a record")
    add_output(parser, "folder for figures and the scan's record (default: outputs/MODEL)")
    add_examples(
        parser,
        "featviz grid",
        "featviz grid --model alexnet --weights DEFAULT --images photos/ --max-channels 16",
        "featviz grid --layers 'conv[45]' --channels 0,5,17 --view projection --format pdf",
    )
    parser.set_defaults(goes_on="What was scanned is kept: the same command goes on from there.")
