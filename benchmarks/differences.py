"""How far projections are from those that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Differences:
    """The differences between pairs of projections.

    Attributes:
        relative: of each pair, the largest difference, relative to the largest expected magnitude.
        silent: how many pairs were expected to be 0 everywhere, which shows little.
    """

    relative: list[float] = field(default_factory=list)
    silent: int = 0

    def __len__(self) -> int:
        return len(self.relative)

    def add(self, values: Tensor, expected: Tensor) -> None:
        """A pair of one shape."""
        scale = float(expected.abs().max())
        if scale == 0:
            self.silent += 1
            scale = 1.0
        self.relative.append(float((values - expected).abs().max()) / scale)

    @property
    def largest(self) -> float:
        """Of all pairs; nan if there are none, or if one is nan, which Python's max would lose."""
        if not self.relative:
            return float("nan")
        return float(torch.tensor(self.relative, dtype=torch.float64).max())

    def within(self, allowed: float) -> bool:
        """Whether something was compared, and nothing differs by more than is allowed."""
        return len(self) > self.silent and self.largest <= allowed
