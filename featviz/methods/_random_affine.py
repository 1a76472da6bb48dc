"""A random turn, scale and shift of images, the same for all of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.precision import in_full


@dataclass(frozen=True)
class RandomAffine:
    """Images turned, scaled and shifted about their centre at random, by one interpolation.

    All images of a batch are moved alike: an image does not depend on those beside it. What comes
    from outside is the image mirrored.

    Attributes:
        shift: to each side, at most, as a share of the image's height and width: small fields would
            not know where in the image they are if all were shifted by as many pixels.
        scale: the largest and the smallest factor are 1 plus and minus this.
        turn: degrees, at most, to each side.
    """

    shift: float = 1 / 24
    scale: float = 0.1
    turn: float = 10.0

    @in_full()
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, c, h, w), moved."""
        draws = torch.rand(4, generator=generator, dtype=torch.float64) * 2 - 1
        angle = torch.deg2rad(draws[0] * self.turn)
        factor = 1 / (1 + draws[1] * self.scale)
        height, width = images.shape[-2:]
        cosine = factor * angle.cos()
        sine = factor * angle.sin()
        rows = [
            torch.stack([cosine, -sine * height / width, draws[2] * self.shift * 2]),
            torch.stack([sine * width / height, cosine, draws[3] * self.shift * 2]),
        ]
        matrix = torch.stack(rows).to(images)
        grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        grid = grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
