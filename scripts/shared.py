"""The arguments, the exit and the output files that all scripts share."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featviz import figures
from featviz.cli.arguments import (
    add_image_arguments,
    add_k,
    add_maximize,
    add_memory,
    add_model_arguments,
    add_rules,
)
from featviz.cli.endings import exit_code
from featviz.cli.provenance import heading_of, shown_path, state_of
from featviz.cli.sources import (
    images_from,
    labelled,
    model_from,
    normalisation,
    recipe_from,
    square_side,
)
from featviz.cli.words import numbers, positive
from featviz.files import check_writable, write_atomic

# the commands' own arguments, which the scripts take from here
__all__ = [
    "Rows",
    "add_fill",
    "add_k",
    "add_maximize",
    "add_memory",
    "add_rules",
    "heading_of",
    "images_from",
    "labelled",
    "model_from",
    "normalisation",
    "numbers",
    "parser",
    "positive",
    "positives",
    "recipe_from",
    "run",
    "shown_path",
    "square_side",
    "state_of",
    "write",
]

Rows = Sequence[Mapping[str, Any]]


def parser(
    doc: str | None, name: str, *, layers: str | None = "conv", usual: str = "conv"
) -> argparse.ArgumentParser:
    """The arguments that every script has.

    Args:
        doc: the script's docstring, its page of help.
        name: the script's; the default output folder is ``outputs/NAME``.
        layers: the pattern of layers without --layers; None: the script chooses.
        usual: what help says of that choice.
    """
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(result)
    add_image_arguments(result)
    result.add_argument(
        "--layers",
        default=layers,
        help=f"'conv' (every convolution), names or globs, separated by commas (default: {usual})",
    )
    result.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices (default: 0)"
    )
    result.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("outputs") / name,
        help=f"where to write (default: outputs/{name})",
    )
    result.set_defaults(goes_on="The same command begins again.", quiet=False)
    return result


def add_fill(parser: argparse.ArgumentParser) -> None:
    """--fill."""
    parser.add_argument(
        "--fill",
        default="gray",
        choices=("gray", "mean", "blur"),
        help="values of the covered window (default: gray)",
    )


def positives(text: str) -> list[int]:
    """Whole numbers above 0, with commas."""
    return [positive(number.strip()) for number in text.split(",")]


def run(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script and return its exit code: 0 done, 1 an error that was explained, 130
    interrupted.
    """

    def work(args: argparse.Namespace) -> None:
        check_writable(args.out)  # before the work rather than after it
        main(args)

    return exit_code(work, parser.parse_args(argv))


def write(figure: Figure, table: Rows | Mapping[str, Any], folder: Path, stem: str) -> None:
    """Save a figure as ``stem.png`` and ``stem.pdf`` beside its numbers, and print the paths.

    Rows become ``stem.csv``, a mapping ``stem.json``. No file is ever half written."""
    for suffix in ("png", "pdf"):
        print(figures.save(figure, folder / f"{stem}.{suffix}"))
    if isinstance(table, Mapping):
        text = json.dumps(table, indent=1, default=float) + "\n"
        print(write_atomic(folder / f"{stem}.json", text))
    else:
        print(write_atomic(folder / f"{stem}.csv", _csv(table)))


def _csv(rows: Rows) -> str:
    """Rows with the columns of them all, in the order in which they first occur."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
