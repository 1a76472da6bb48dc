"""How far Python runs ahead of a GPU."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

AHEAD = 16
"""Batches that a GPU is given before it has done the first of them."""


class Pace:
    """Keeps Python some batches ahead of a GPU, and no more: what is given to it stays in memory until it is done, and a
    progress bar would say what is only begun."""

    def __init__(self) -> None:
        self._events: deque[torch.cuda.Event] = deque()

    def step(self, batch: Tensor) -> None:
        """A batch was given to its device; where it is a GPU that has many, the first of them is waited for."""
        if not batch.is_cuda:
            return
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(batch.device))
        self._events.append(event)
        if len(self._events) > AHEAD:
            self._events.popleft().synchronize()
