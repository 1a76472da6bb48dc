"""``featviz merge``: one scan, or one gallery, of all shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz import gallery
from featviz.cli.arguments import add_examples, in_turn, report
from featviz.errors import UsageError
from featviz.gallery._merge import shards_of
from featviz.methods.merge import merge
from featviz.records.scan import MANIFEST


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
    parser.set_defaults(run=run, goes_on="The same command begins again.")


def run(args: argparse.Namespace) -> None:
    """Merge, and print what there is."""
    single = args.folders[0] if len(args.folders) == 1 else None
    if single is not None and shards_of(single):
        if args.out is not None:
            raise UsageError("a gallery is merged where its shards are: leave --out out")
        with in_turn(single):
            print(gallery.merge(single))
        return
    out = args.out or single or Path("outputs/merged")
    with in_turn(out):
        result = merge(single or args.folders, out=out)
    report(result)
    print(f"{result!r}: {out / MANIFEST}")
