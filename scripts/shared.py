"""What the scripts share: their arguments, how they end, and how they write."""

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
from featviz.cli.arguments import add_image_arguments, add_layers, add_model_arguments, exit_code
from featviz.methods.scan import check_writable

Rows = Sequence[Mapping[str, Any]]


def parser(doc: str, out: str) -> argparse.ArgumentParser:
    """The arguments of every script.

    Args:
        doc: the script's docstring.
        out: the script's name; it writes to ``outputs/NAME`` unless told otherwise.
    """
    arguments = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(arguments)
    add_image_arguments(arguments)
    add_layers(arguments)
    arguments.add_argument(
        "--seed", type=int, default=0, help="of whatever is drawn at random (default: 0)"
    )
    arguments.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("outputs") / out,
        help=f"where to write (default: outputs/{out})",
    )
    arguments.set_defaults(goes_on="The same command begins again.")
    return arguments


def run(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script and return its exit code: 0 done, 1 an error that was explained, 130
    interrupted.
    """
    args = parser.parse_args(argv)

    def work(args: argparse.Namespace) -> None:
        check_writable(args.out)
        main(args)

    return exit_code(work, args)


def write(figure: Figure, numbers: Rows | Mapping[str, Any], folder: Path, stem: str) -> None:
    """Save a figure as ``stem.png`` and ``stem.pdf`` beside its numbers, and print the paths.

    Each file is written under another name and moved when it is whole. Rows become ``stem.csv``,
    anything else ``stem.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        partial = folder / f".{stem}.part.{suffix}"
        figure.savefig(partial, dpi=figures.DPI, metadata=metadata)
        print(partial.replace(folder / f"{stem}.{suffix}"))
    table = isinstance(numbers, Sequence)
    text = _csv(numbers) if table else json.dumps(numbers, indent=1, default=float) + "\n"  # type: ignore[arg-type]
    partial = folder / f".{stem}.part"
    partial.write_text(text, encoding="utf-8")
    print(partial.replace(folder / f"{stem}.{'csv' if table else 'json'}"))


def _csv(rows: Rows) -> str:
    """Rows with the columns of them all, in the order in which they occur."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
