"""All commands, and the one that is run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from featviz import __version__
from featviz.cli import check, features, gallery, grid, layers, merge, scan, train
from featviz.cli.endings import exit_code


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    args.command = shlex.join(["featviz", *(sys.argv[1:] if argv is None else argv)])
    return exit_code(args.run, args, "featviz: ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="featviz", description="Show what a ConvNet has learned, after Zeiler & Fergus."
    )
    parser.add_argument("--version", action="version", version=f"featviz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (check, features, gallery, grid, layers, merge, scan, train):
        command.register(commands)
    return parser
