"""A layer's units from their weakest responses to their strongest, counted in the pass of a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featviz.records.class_sums import ClassSums
from featviz.records.image_sample import SAMPLE, ImageSample
from featviz.records.position_counts import PositionCounts
from featviz.records.topk import TopK


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Of each of c units, over the images of a scan.

    Attributes:
        negated: the strongest of the scores times -1; ``weakest`` has the scores.
        groups: a seeded sample of the images, in quantile groups of each unit's maxima.
        positions: how the values of all positions spread, for quantiles.
        classes: the mean maximum of each class; of none where images have no labels.

    Example:
        >>> import torch
        >>> from featviz.records.spectrum import Spectrum
        >>> maps = torch.tensor([2.0, -1.0, 1.0]).view(3, 1, 1, 1)
        >>> peaks = maps.amax(dim=(2, 3))
        >>> spectrum = Spectrum.empty(channels=1, k=2).update(maps, peaks, peaks, [0, 1, 2], None)
        >>> spectrum.weakest.images.tolist(), spectrum.weakest.scores.tolist()
        ([[1, 2]], [[-1.0, 1.0]])
    """

    negated: TopK
    groups: ImageSample
    positions: PositionCounts
    classes: ClassSums

    def __repr__(self) -> str:
        return f"<Spectrum of {len(self.positions.counts)} units, {self.positions!r}>"

    @classmethod
    def empty(cls, channels: int, k: int, m: int = SAMPLE, seed: int = 0) -> Spectrum:
        """Of no image yet."""
        groups = ImageSample.empty(channels, m, seed)
        counts = PositionCounts.empty(channels)
        return cls(TopK.empty(channels, k), groups, counts, ClassSums({}, {}))

    def update(
        self,
        maps: Tensor,
        peaks: Tensor,
        scores: Tensor,
        images: list[int],
        labels: list[str] | None,
        *,
        has_positions: bool = True,
    ) -> Spectrum:
        """These, and a batch.

        Args:
            maps: (n, c, h, w), on the device of these, without NaN.
            peaks: (n, c) their maxima.
            scores: (n, c) what images are ranked by.
            images: the index of each of the n images.
            labels: of each of them; None: they have none.
            has_positions: whether each score is the value of a position of its map.
        """
        negated = self.negated.update(-maps, images, -scores, has_positions=has_positions)
        classes = self.classes if labels is None else self.classes.update(peaks, labels)
        groups = self.groups.update(peaks, images)
        return Spectrum(negated, groups, self.positions.update(maps), classes)

    def merge(self, other: Spectrum) -> Spectrum:
        """These and those of other images."""
        return Spectrum(
            self.negated.merge(other.negated),
            self.groups.merge(other.groups),
            self.positions.merge(other.positions),
            self.classes.merge(other.classes),
        )

    def to(self, device: torch.device | str) -> Spectrum:
        """These on a device."""
        negated, groups = self.negated.to(device), self.groups.to(device)
        return Spectrum(negated, groups, self.positions.to(device), self.classes.to(device))

    @property
    def weakest(self) -> TopK:
        """The k images of the lowest scores: lower score first, then lower image index, then lower
        position; infinite scores in slots that no image has filled."""
        return replace(self.negated, scores=-self.negated.scores + 0.0)
