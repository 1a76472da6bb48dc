"""How the benchmarks time a piece of work, and on what."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(work: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds until the work is done, on a GPU too, and what it gave."""
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds until the work is done, on a GPU too."""
    return timed(work, device)[0]


def device_name(device: str) -> str:
    """What a table says of the machine that it was made on."""
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)
