"""How a command ends: done, explained, or interrupted."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress

import torch
from PIL import Image

from featviz.cli.allocator import keep_freed_memory
from featviz.cli.signals import interrupted_code, signals_as_interrupts
from featviz.errors import FeatvizError

_EXPLAINED = (FeatvizError, OSError, torch.OutOfMemoryError)


def exit_code(
    work: Callable[[argparse.Namespace], None], args: argparse.Namespace, prefix: str = ""
) -> int:
    """Do the work: 0 when it is done, 1 after an error that was explained, 128 and the signal's
    number when it was interrupted: 130 by Ctrl-C.
    """
    keep_freed_memory()
    try:
        with signals_as_interrupts(), warnings.catch_warnings(), _speech(args):
            # a picture that is so large that it could be an attack is skipped, one below that read
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            work(args)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        interrupt = _interrupt_behind(error)
        if interrupt is not None:
            code = interrupted_code(interrupt)
            message = f"\n{prefix}stopped. {args.goes_on}"
        elif args.debug or not isinstance(error, _EXPLAINED):
            raise
        else:
            code = 1
            message = f"{prefix}error: {error}{_flags(error, args)}"
    # here the traceback is gone, and with it the progress bars that it kept open
    with suppress(OSError):  # the terminal may be gone, too
        print(message, file=sys.stderr)
    return code


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an error is, or that an error arose from, as in zipfile's that closes a
    file while it is written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return cause
        cause = cause.__context__
    return None


def _speech(args: argparse.Namespace) -> AbstractContextManager[object]:
    """A block whose printing goes nowhere under --quiet; errors and warnings are no printing."""
    if not vars(args).get("quiet"):
        return nullcontext()
    return redirect_stdout(_Nowhere())


class _Nowhere(io.TextIOBase):
    """A text file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def _flags(error: Exception, args: argparse.Namespace) -> str:
    """The flags of the arguments that an error names as its remedy, in brackets: those that this
    command has."""
    if not isinstance(error, FeatvizError):
        return ""
    flags = []
    for argument in error.arguments:
        name = _OWN_NAMES.get(argument, argument)
        if name in vars(args):
            flag = "--" + name.replace("_", "-")
            flags.append(f"{flag} {_METAVARS.get(name, '')}".strip())
    return f" ({', '.join(flags)})" if flags else ""


# what the commands call an argument that has another name in the library
_OWN_NAMES = {
    "size": "input_size",
    "rules": "rule",
    "views": "view",
    "key": "weights_key",
}
# what follows a flag, where that helps
_METAVARS = {
    "out": "DIR",
    "images": "DIR",
    "labels": "FILE|PATTERN",
    "weights": "FILE",
    "input_size": "PIXELS",
    "resize": "none",
    "batch_size": "N",
    "weights_key": "KEY",
}
