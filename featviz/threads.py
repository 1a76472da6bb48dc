"""Threads that work beside each other, each on one core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

_MOST = 8


@contextmanager
def threads(n: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A block with n threads, in each of which torch computes on one core: as many again in each of
    them would wait for each other. What was submitted and has not begun when the block ends is dropped.

    Args:
        n: how many; None: as many as there are cores, up to 8.
    """
    usual = torch.get_num_threads()
    pool = ThreadPoolExecutor(n or min(os.cpu_count() or 1, _MOST), initializer=_compute_alone)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(usual)  # of threads that begin later


def _compute_alone() -> None:
    torch.set_num_threads(1)
