"""``featviz figure``: the scripts of the paper's figures, from wherever featviz is installed."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from textwrap import shorten

from featviz.errors import UsageError, did_you_mean
from featviz.files import check_writable

_HOME = Path(__file__).parents[1]
_SUMMARY = 100  # characters of the line that says what a script draws


def run(args: argparse.Namespace) -> None:
    """Run a script with the words that follow its name; without a name, print which there are.

    Raises:
        UsageError: there is no such script.
    """
    if args.name is None:
        print(listed())
        return
    names = [path.stem for path in _scripts()]
    if args.name not in names:
        raise UsageError(
            f"no script {args.name!r}{did_you_mean(args.name, names)}: there are {', '.join(names)}"
        )
    with _importable(folder()):
        script = import_module(args.name)
        parser = script.arguments()
        parser.prog = f"featviz figure {args.name}"
        usage = f"python scripts/{args.name}.py"
        parser.description = parser.description.replace(usage, parser.prog)
        # in place, so that an error is explained with the script's flags
        parser.parse_args(args.words, args)
        check_writable(args.out)
        script.main(args)


def folder() -> Path:
    """Where the scripts are: within the installed package, or beside it in the repository."""
    installed = _HOME / "scripts"
    return installed if installed.exists() else _HOME.parent / "scripts"


def _scripts() -> list[Path]:
    """The files that can be run, and not those that these share."""
    files = sorted(folder().glob("*.py"))
    return [path for path in files if "__main__" in path.read_text(encoding="utf-8")]


def listed() -> str:
    """The names of the scripts, each with the first sentence of its documentation."""
    lines = ["scripts:"]
    for path in _scripts():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summary = shorten(text.partition("\n\n")[0], _SUMMARY, placeholder=" ...")
        lines.append(f"  {path.stem:<18}  {summary}")
    return "\n".join(lines)


@contextmanager
def _importable(own: Path) -> Iterator[None]:
    """A block in which scripts find each other by their names, as where one is run by itself."""
    sys.path.insert(0, str(own))
    try:
        yield
    finally:
        sys.path.remove(str(own))
