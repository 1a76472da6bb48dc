"""How a command ends: done, explained, or interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from featviz.errors import FeatvizError


class _Signalled(KeyboardInterrupt):
    """The process is asked to end: all that Ctrl-C does follows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(
    work: Callable[[argparse.Namespace], None], args: argparse.Namespace, prefix: str = ""
) -> int:
    """Do the work: 0 when it is done, 1 after an error that was explained, 128 and the signal's
    number when it was interrupted: 130 by Ctrl-C.
    """
    try:
        with _signals_as_interrupts():
            work(args)
        return 0
    except KeyboardInterrupt as interrupt:
        code = 128 + getattr(interrupt, "number", signal.SIGINT)
        message = f"\n{prefix}stopped. {args.goes_on}"
    except (FeatvizError, OSError, torch.OutOfMemoryError) as error:
        if args.debug:
            raise
        code = 1
        message = f"{prefix}error: {error}{_flags(error, args)}"
    # here the traceback is gone, and with it the progress bars that it kept open
    with suppress(OSError):  # the terminal may be gone, too
        print(message, file=sys.stderr)
    return code


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """A block in which SIGTERM and SIGHUP interrupt as Ctrl-C does; afterwards they do what they did
    before."""
    earlier: dict[int, Any] = {}

    def interrupt(number: int, frame: Any) -> None:
        raise _Signalled(number)

    try:
        # Python calls handlers in the main thread, and lets no other set them
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                # what is ignored is left so: nohup means it
                if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                    earlier[number] = signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


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
    "resize": "input_size",
    "rules": "rule",
    "views": "view",
    "key": "weights_key",
}
# what follows a flag, where that helps
_METAVARS = {
    "out": "DIR",
    "images": "DIR",
    "weights": "FILE",
    "input_size": "PIXELS",
    "batch_size": "N",
    "weights_key": "KEY",
}
