"""The mean amplitude spectrum of images, the same whatever the order, batches and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.errors import UsageError
from featviz.records.image_sample import hash_of
from featviz.records.peaks import in_reach

COUNTED = 10_000
"""About so many images have their amplitudes counted: more would not change the mean."""
_SEED = 1  # other than those of image and position samples
_UNIT = 2.0**20
"""An amplitude, a float32, is rounded to the nearest multiple of 1 / this: amplitudes are at most h * w, so
that 2**24 images of 512 by 512 do not overflow."""
_BLOCK = 16
"""Images that are transformed at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Amplitudes:
    """The sum of the amplitudes of the 2-D Fourier transform of images, color by color.

    Attributes:
        count: number of images.
        sums: (colors, h, w // 2 + 1) int64, in multiples of 2**-20, as `torch.fft.rfft2`
            orders them. Each amplitude is computed in float32: to a millionth of the largest.

    Source: Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained
    Optimization (2023), section 3.

    Example:
        >>> import torch
        >>> from featviz.records.amplitudes import Amplitudes
        >>> Amplitudes.empty((1, 2, 2)).update(torch.ones(3, 1, 2, 2)).mean.tolist()
        [[[4.0, 0.0], [0.0, 0.0]]]
    """

    count: int
    sums: Tensor

    def __repr__(self) -> str:
        return f"<Amplitudes {tuple(self.sums.shape)} of {self.count} images>"

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> Amplitudes:
        """Of no image yet, of images (colors, h, w)."""
        colors, h, w = shape
        return cls(0, torch.zeros(colors, h, w // 2 + 1, dtype=torch.int64))

    @classmethod
    def from_array(cls, count: int, shape: tuple[int, int, int], sums: Any) -> Amplitudes:
        """Those of ``count`` images (colors, h, w), from ``sums`` as an array.

        Raises:
            ValueError: it is of other images.
        """
        expected = cls.empty(shape).sums
        if (sums.shape, sums.dtype) != (tuple(expected.shape), np.int64):
            raise ValueError(f"amplitudes are {sums.dtype} {sums.shape}, of images {shape}")
        return cls(count, torch.from_numpy(sums))

    def update(self, images: Tensor) -> Amplitudes:
        """These, and images (n, colors, h, w) from 0 to 1, on the device of these images, which is not waited for."""
        if not len(images):
            return self  # which not every FFT takes
        sums = self.sums.to(images.device)
        # a GPU transforms batches of other sizes in other ways, to other last bits
        for block in torch.split(images.float(), _BLOCK):
            more = _BLOCK - len(block)
            padded = block if in_reach(block) else F.pad(block, (0, 0) * 3 + (0, more))
            sums = sums + _units(padded).sum(dim=0, dtype=torch.int64)
        return Amplitudes(self.count + len(images), sums)

    def to(self, device: torch.device | str) -> Amplitudes:
        """These on a device."""
        return Amplitudes(self.count, self.sums.to(device))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved."""
        return {"amplitudes": self.sums.cpu().numpy(), "amplitude_images": np.array(self.count)}

    def merge(self, other: Amplitudes) -> Amplitudes:
        """These and those of other images.

        Raises:
            UsageError: images of another size.
        """
        if self.sums.shape != other.sums.shape:
            raise UsageError(
                f"amplitudes {tuple(self.sums.shape)} and {tuple(other.sums.shape)} do not merge: "
                "take both of images of the same size"
            )
        return Amplitudes(self.count + other.count, self.sums + other.sums)

    @property
    def mean(self) -> Tensor:
        """(colors, h, w // 2 + 1) float64, the mean amplitude."""
        return self.sums.double() / _UNIT / max(self.count, 1)


def _units(images: Tensor) -> Tensor:
    """The amplitudes of images (n, colors, h, w), rounded to multiples of 1 / _UNIT, of which these are how many."""
    waves = torch.view_as_real(torch.fft.rfft2(images))
    squares = waves[..., 0].square()
    squares += waves[..., 1].square()
    amplitudes = squares.sqrt_()  # several times as fast as torch's abs
    return amplitudes.mul_(_UNIT).round_()


def counted(images: Sequence[int], of: int) -> list[int]:
    """Which of some images have their amplitudes counted, as indices into them: all if there are no more
    than `COUNTED` in all, else a random choice that does not depend on batches and shards."""
    limit = 2**63 * COUNTED // max(of, COUNTED)
    return [row for row, image in enumerate(images) if hash_of(image, _SEED) < limit]
