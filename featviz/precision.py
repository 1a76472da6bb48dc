"""Arithmetic in the type of its numbers, whatever the caller's network computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_full() -> Iterator[None]:
    """A block, or a decorated function, without autocast. That is for networks: with the 8 bits of
    bfloat16 a grid of pixels is off by whole pixels, and a fit ends elsewhere.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
