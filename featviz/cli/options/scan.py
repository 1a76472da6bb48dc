"""The options of ``featviz scan``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_checkpoint,
    add_examples,
    add_image_arguments,
    add_k,
    add_layers,
    add_model_arguments,
    add_output,
    add_score,
    add_spectrum,
)
from featviz.cli.words import positive, share
from featviz.names import PER_SHARD, PRECISIONS


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_k(parser)
    add_score(parser)
    parser.add_argument(
        "--shard",
        type=share,
        metavar="I/N",
        help="only shard I of N, from 0; featviz merge makes one scan of them",
    )
    parser.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help=f"under torchrun: how many shards ranks take in turns (default: {PER_SHARD} images each)",
    )
    going = parser.add_mutually_exclusive_group()
    going.add_argument("--fresh", action="store_true", help="scan again even if there is a record")
    going.add_argument(
        "--resume",
        action="store_true",
        help="go on with the record that is there (which is done without this, too)",
    )
    add_spectrum(parser)
    add_checkpoint(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what the network computes in; bf16 and tf32 are faster and coarser (default: float32)",
    )
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="lay out images with their channels last in memory (default: on CPUs, which are quicker so)",
    )
    add_output(parser, "folder for the record (default: outputs/MODEL-scan)")
    add_examples(
        parser,
        "featviz scan --model alexnet --weights DEFAULT --images photos/",
        "featviz scan --images photos/ --shard 0/16 --out outputs/shards",
        "torchrun --nproc-per-node 4 -m featviz scan --images photos/ --out outputs/scan",
    )
    parser.set_defaults(goes_on="What was scanned is kept: the same command goes on from there.")
