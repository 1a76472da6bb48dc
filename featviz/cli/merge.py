"""``featviz merge``: one scan, or one gallery, of all shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz import gallery
from featviz.cli.work import in_turn, report
from featviz.errors import UsageError
from featviz.gallery._merge import shards_of
from featviz.methods._shards import shards_in
from featviz.methods.merge import merge, no_shards
from featviz.records.scan import MANIFEST


def run(args: argparse.Namespace) -> None:
    """Merge, and print what there is."""
    single = args.folders[0] if len(args.folders) == 1 else None
    if single is not None and shards_of(single):
        if args.out is not None:
            raise UsageError("a gallery is merged where its shards are: leave --out out")
        with in_turn(single):
            print(gallery.merge(single))
        return
    if single is not None and shards_in(single) is None:
        raise UsageError(
            f"{no_shards(single)}: make them with featviz scan --shard I/N --out {single}"
        )
    out = args.out or single or Path("outputs/merged")
    with in_turn(out):
        result = merge(single or args.folders, out=out)
    report(result)
    print(f"{result!r}: {out / MANIFEST}")
