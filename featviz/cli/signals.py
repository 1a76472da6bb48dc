"""Signals that ask a command to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Signalled(KeyboardInterrupt):
    """The process is asked to end: all that Ctrl-C does follows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interrupted_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted: 128 and the signal's number."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def ignore_signals() -> None:
    """For the second in which Python and torch go: what a command has done, or said of its end,
    stands, and its exit code with it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_end_at_once() -> Iterator[None]:
    """A block that waits for other processes, outside Python, with nothing to save: the signals that
    ask to end do so at once, where Python would hear of them when the others have come."""
    earlier: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            earlier[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """A block in which SIGTERM and SIGHUP interrupt as Ctrl-C does; afterwards they do what they did
    before."""
    earlier: dict[int, Any] = {}

    def interrupt(number: int, frame: Any) -> None:
        raise Signalled(number)

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
