"""What commands print: in letters that the terminal has, and to somebody who reads."""

from __future__ import annotations

import os
import select
import sys

NOBODY = 128 + 13
"""The exit code of a command whose reader has gone, as of ``| head``: that of SIGPIPE."""


def print_any_text() -> None:
    """From here on print what the terminal, or the file, has no letters for as escapes: a name must not cost the
    command that prints it."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # none of what stands for it in tests
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")


def nobody_reads() -> bool:
    """Whether what is printed goes into a pipe that has no reader any more."""
    if sys.__stdout__ is None or not hasattr(select, "poll"):  # of Windows
        return False
    poll = select.poll()
    poll.register(sys.__stdout__.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def flushed(code: int) -> int:
    """The exit code of a command, once what it printed has arrived."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = NOBODY
    except OSError as error:
        print(f"featviz: error: the output cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    # what is left is for nobody, and Python would try to write it once more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
