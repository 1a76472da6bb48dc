"""Noisy copies of an image, over which a projection is averaged (SmoothGrad, Smilkov et al.,
arXiv 1706.03825)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featviz.errors import UsageError

LEVEL = 0.15
"""The noise's standard deviation, of the image's largest value less its smallest (their section 4: 10% to 20%)."""
_STEP = 1_000_003  # between the seeds of two images


class Noise(NamedTuple):
    """How projections are averaged over noise.

    Attributes:
        samples: noisy copies of each image; 0: the image alone.
        seed: of the noise. An image's noise depends on it and on the image's key alone.
    """

    samples: int = 0
    seed: int = 0

    @property
    def rows(self) -> int:
        """How many rows of a batch an image takes: itself, and its noisy copies."""
        return 1 + self.samples

    def copies(self, image: Tensor, key: int) -> Tensor:
        """An image (c, h, w) and its noisy copies, (rows, c, h, w)."""
        if not self.samples:
            return image[None]
        generator = torch.Generator().manual_seed(self.seed + _STEP * (key + 1))
        noise = torch.randn(
            self.samples, *image.shape, generator=generator, dtype=torch.float32
        ).to(image)
        deviation = LEVEL * (image.max() - image.min())
        return torch.cat([image[None], image + noise * deviation])

    def mean(self, signals: Tensor) -> Tensor:
        """The signals of n images with their copies, (n * rows, c, h, w), averaged, (n, c, h, w)."""
        if not self.samples:
            return signals
        by_image: Tensor = signals.reshape(-1, self.rows, *signals.shape[1:])
        return by_image[:, 1:].mean(dim=1)


def noise_of(smooth: int, seed: int) -> Noise:
    """The noise that arguments ask for.

    Raises:
        UsageError: ``smooth`` is not a number of samples.
    """
    if not isinstance(smooth, int) or smooth < 0:
        raise UsageError(
            f"smooth={smooth!r}: give the number of noisy copies of each image, 0 for none",
            "smooth",
        )
    return Noise(smooth, seed)


NONE = Noise()
