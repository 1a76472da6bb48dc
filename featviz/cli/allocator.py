"""Memory that a command has freed stays with it."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_SETTINGS = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for what comes next, to the end of the process; whether it
    does.

    glibc gives large tensors back to the system as soon as they are freed, so that every layer of every
    batch is given new pages, which are filled with zeros first: a third of a forward's time on two
    cores (docs/speed.md). The peak stays what it is. Nothing is changed with another C library, nor
    where the environment has settings of its own for it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # -1 never gives back the end of the heap, and 0 large tensors have none to themselves outside it
    return all([mallopt(_TRIM_THRESHOLD, -1), mallopt(_MMAP_MAX, 0)])
