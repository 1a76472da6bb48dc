"""``featviz merge``: one scan of all shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz.cli.arguments import add_examples, in_turn, report
from featviz.methods.merge import merge
from featviz.records.scan import MANIFEST


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="the folder of the shards, which the scan is written to; or several folders of scans",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: the only folder)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_examples(
        parser,
        "featviz merge outputs/shards",
        "featviz merge outputs/first outputs/second --out outputs/both",
    )
    parser.set_defaults(run=run, goes_on="The same command begins again.")


def run(args: argparse.Namespace) -> None:
    """Merge, and print what there is."""
    single = args.folders[0] if len(args.folders) == 1 else None
    out = args.out or single or Path("outputs/merged")
    with in_turn(out):
        result = merge(single or args.folders, out=out)
    report(result)
    print(f"{result!r}: {out / MANIFEST}")
