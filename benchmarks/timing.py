"""How the benchmarks time a piece of work, and on what."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor


def timed(work: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Seconds until the work is done, on a GPU too, and what it gave."""
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def device_name(device: str) -> str:
    """What a table says of the machine that it was made on."""
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)
