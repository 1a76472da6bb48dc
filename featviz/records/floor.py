"""What a score has to reach before it can be among the highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from featviz.records.highest import highest


@dataclass(frozen=True, eq=False)
class Floor:
    """The k-th highest score of each of c units over some images.

    Attributes:
        scores: (c,) float32.
        latest: the highest index of the images.
        images: how many there are, no less than k.
    """

    scores: Tensor
    latest: int
    images: int

    @classmethod
    def of(cls, scores: Tensor, images: Sequence[int], k: int) -> Floor | None:
        """Over the scores (n, c) of some images; None where they are fewer than k."""
        if len(images) < k:
            return None
        return cls(highest(scores.T, k)[:, -1], max(images), len(images))

    def may_pass(self, scores: Tensor, images: Sequence[int]) -> Tensor:
        """(n, c) bool, which scores may be among the k highest of these images and others; of equal ones
        the earlier image stays."""
        return scores > self.scores if min(images) > self.latest else scores >= self.scores
