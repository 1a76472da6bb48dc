"""The options of ``featviz merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz.cli.arguments import add_examples


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="the folder of the shards, of a scan or of a gallery, which is written there; or several folders of scans",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: the only folder)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_examples(
        parser,
        "featviz merge outputs/shards",
        "featviz merge outputs/photos-gallery",
        "featviz merge outputs/first outputs/second --out outputs/both",
    )
    parser.set_defaults(goes_on="The same command begins again.")
