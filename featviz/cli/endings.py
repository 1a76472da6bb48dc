"""How a command ends: done, explained, or interrupted."""

from __future__ import annotations

import argparse
import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)

import torch
from PIL import Image

from featviz.cli.allocator import keep_freed_memory
from featviz.cli.output import NOBODY, nobody_reads
from featviz.cli.signals import interrupted_code, signals_as_interrupts
from featviz.errors import FeatvizError

_EXPLAINED = (FeatvizError, OSError, torch.OutOfMemoryError)
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What a system says where a disk, or the share of a user, has no room."""


def exit_code(
    work: Callable[[argparse.Namespace], None], args: argparse.Namespace, prefix: str = ""
) -> int:
    """Do the work: 0 when it is done, 1 after an error that was explained, 128 and the signal's
    number when it was interrupted: 130 by Ctrl-C.
    """
    keep_freed_memory()
    try:
        with signals_as_interrupts(), warnings.catch_warnings(), _plain_warnings(), _speech(args):
            # a picture that is so large that it could be an attack is skipped, one below that read
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            work(args)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        interrupt = _interrupt_behind(error)
        if interrupt is not None:
            code = interrupted_code(interrupt)
            message = f"\n{prefix}stopped. {args.goes_on}"
        elif isinstance(error, BrokenPipeError) and nobody_reads():
            return NOBODY
        elif args.debug or not isinstance(error, _EXPLAINED):
            raise
        else:
            code = 1
            message = f"{prefix}error: {_explained(error, args)}{_flags(error, args)}"
    # here the traceback is gone, and with it the progress bars that it kept open
    with suppress(OSError):  # the terminal may be gone, too
        print(message, file=sys.stderr)
    return code


def _explained(error: Exception, args: argparse.Namespace) -> str:
    """What an error says; of a file that a disk has no room for, with what helps."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return str(error)
    out = vars(args).get("out")
    named = "the output" if out is None else f"a file in {str(out)!r}"
    if error.filename is not None:
        named = repr(error.filename)
    return f"{named} cannot be written: {error.strerror}. Make room on the disk, or choose another folder"


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an error is, or that an error arose from, as in zipfile's that closes a
    file while it is written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return cause
        cause = cause.__context__
    return None


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """A block in which a warning is a line, without the place in the code that it is of."""
    earlier = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = earlier


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
    arguments: tuple[str, ...] = ()
    if isinstance(error, FeatvizError):
        arguments = error.arguments
    elif isinstance(error, OSError) and error.errno in _FULL:
        arguments = ("out",)
    flags = []
    for argument in arguments:
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
