"""The options of ``featviz figure``."""

from __future__ import annotations

import argparse

from featviz.cli.figure import listed


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a script; without, list them")
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="the script's own options, which featviz figure NAME --help lists",
    )
    parser.description = f"{parser.description}\n\n{listed()}"
    parser.epilog = "\n  ".join(
        [
            "examples:",
            "featviz figure top_patches",
            "featviz figure occlusion --model alexnet --weights DEFAULT --images photos/",
            "featviz figure occlusion --help",
        ]
    )
    parser.set_defaults(debug=False, goes_on="The same command begins again.")
