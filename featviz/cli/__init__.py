"""The command line: one subcommand for each public verb, each in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from featviz.cli.output import flushed, print_any_text
from featviz.cli.signals import ignore_signals, interrupted_code, signals_as_interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 an error that was explained, 130
    interrupted.
    """
    try:
        with signals_as_interrupts():
            # here, since torch takes seconds, in which a command can be asked to end, too
            from featviz.cli.commands import run

            return run(argv)
    except KeyboardInterrupt as interrupt:
        print("\nfeatviz: stopped before it began.", file=sys.stderr)
        return interrupted_code(interrupt)


def console() -> None:
    """The entry point of the ``featviz`` command."""
    print_any_text()
    try:
        code = main()
    except SystemExit as end:  # of help, and of words that are none
        code = int(end.code or 0)
    finally:
        ignore_signals()
    sys.exit(flushed(code))
