"""The options of ``featviz layers``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import add_examples, add_model_arguments


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_examples(
        parser,
        "featviz layers --model vgg16",
        "featviz layers --model mypackage.nets:small --input-size 64",
    )
    parser.set_defaults(goes_on="")
