"""All commands, and the one that is run: only that one is imported, since torch takes seconds."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from featviz import __version__
from featviz.errors import did_you_mean

COMMANDS = {
    "check": "measure how far the pictures of each rule can be trusted, as a table",
    "export": "write every unit's strongest images, with masks, in the files that other tools read",
    "features": "write the response of every unit to every image to array files",
    "figure": "draw a figure of the paper or the lecture, by one of the scripts",
    "gallery": "scan images, project every unit, and write a site to browse them in",
    "grid": "scan images, project every unit's strongest responses, draw a grid for each layer",
    "layers": "print a model's layers: kind, size, kernel, receptive field, parameters",
    "maximize": "make an image for each unit that drives it, from noise",
    "merge": "make one scan, or one gallery, of its shards",
    "scan": "find the strongest responses of every unit; by shards, or under torchrun",
    "show": "draw one unit large: its strongest images, and its projections under each rule",
    "train": "train a network, with a checkpoint at each named epoch",
}
"""What each command does; ``featviz/cli`` has a module for each, with a function ``run``, and ``options`` one
with ``register``, which needs no torch."""
_EXAMPLES = """\
examples:
  featviz grid                                   the bundled network on drawn images
  featviz layers --model vgg16
  featviz gallery --model alexnet --weights DEFAULT --images photos/
  featviz COMMAND --help                         all options of a command, with examples
"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without any, print the help."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    parsers = _parsers(parser)
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        parser.parse_args(words)
        parser.print_help()
        return 0
    if name not in parsers:
        hint = did_you_mean(name, COMMANDS)
        parser.error(f"no command {name!r}{hint} (choose from {', '.join(COMMANDS)})")
    args = _arguments(parser, parsers[name], name, words)
    # here, since they import torch
    from featviz.cli.endings import exit_code
    from featviz.cli.provenance import shown_word

    args.command = shlex.join(["featviz", *map(shown_word, words)])

    return exit_code(import_module(f"featviz.cli.{name}").run, args, "featviz: ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="featviz",
        description="Show what a ConvNet has learned, after Zeiler & Fergus.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"featviz {__version__}")
    return parser


def _parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command by its name, still without its options."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parsers = {}
    for name, text in COMMANDS.items():
        parsers[name] = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    return parsers


def _arguments(
    parser: argparse.ArgumentParser, own: argparse.ArgumentParser, name: str, words: list[str]
) -> argparse.Namespace:
    """What the words say to a command; an option that it has not is an error that names the closest."""
    import_module(f"featviz.cli.options.{name}").register(own)
    own.add_argument(
        "--quiet", action="store_true", help="print errors and warnings alone, and show no bars"
    )
    args, unknown = parser.parse_known_args(words)
    if unknown:
        options = re.findall(r"--[a-z][a-z-]*", own.format_usage())
        given = unknown[0].partition("=")[0]
        hint = did_you_mean(given, options)
        if given in options:
            hint = f"; options come behind the command: featviz {name} {given}"
        own.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args
