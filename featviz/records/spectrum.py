"""A layer's units from their weakest responses to their strongest, counted in the pass of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.records.class_sums import ClassSums
from featviz.records.peaks import Peaks
from featviz.records.position_counts import KINDS, PositionCounts
from featviz.records.position_sample import some_positions
from featviz.records.sums import LIMBS
from featviz.records.topk import TopK

ARRAYS = (
    "weakest_scores",
    "weakest_images",
    "weakest_positions",
    "position_counts",
    "class_sums",
    "class_counts",
)


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Of each of c units, over the images of a scan.

    Attributes:
        negated: the strongest of the scores times -1; ``weakest`` has the scores.
        positions: how the values of positions spread, for quantiles: of all, if a unit has no more
            than 131,072, else of a seeded choice of about half as many.
        classes: the mean maximum of each class; of none where images have no labels.

    Example:
        >>> import torch
        >>> from featviz.records.peaks import Peaks, highest_of
        >>> from featviz.records.spectrum import Spectrum
        >>> maps = torch.tensor([2.0, -1.0, 1.0]).view(3, 1, 1, 1)
        >>> peaks = Peaks.of(highest_of(maps), images=[0, 1, 2])
        >>> spectrum = Spectrum.empty(channels=1, k=2).add(peaks, [None] * 3)
        >>> spectrum.weakest.images.tolist(), spectrum.weakest.scores.tolist()
        ([[1, 2]], [[-1.0, 1.0]])
    """

    negated: TopK
    positions: PositionCounts
    classes: ClassSums

    def __repr__(self) -> str:
        return f"<Spectrum of {len(self.positions.kinds)} units, {self.positions!r}>"

    @classmethod
    def empty(cls, channels: int, k: int) -> Spectrum:
        """Of no image yet."""
        counts = PositionCounts.empty(channels)
        return cls(TopK.empty(channels, k), counts, ClassSums({}, {}))

    def counting(self, maps: Tensor, images: list[int], total: int) -> Spectrum:
        """These, with the values of a batch's positions, or of some of them.

        Args:
            maps: (n, c, h, w), in reach of Python, without NaN.
            images: the index of each of the n images.
            total: how many positions all images have, by which `some_positions` chooses.
        """
        chosen = some_positions(maps, images, total)
        if chosen is None:
            return self
        return replace(self, positions=self.positions.update(chosen))

    def with_kinds(self, kinds: Tensor) -> Spectrum:
        """These, with those of a batch, as of `FarPositions`."""
        return replace(self, positions=self.positions.plus(kinds))

    def add(self, peaks: Peaks, labels: Sequence[str | None]) -> Spectrum:
        """These, with the peaks of n images and the label of each; None: it has none."""
        negated = self.negated.add(peaks, lowest=True)
        return replace(self, negated=negated, classes=self.classes.update(peaks.maxima, labels))

    def merge(self, other: Spectrum) -> Spectrum:
        """These and those of other images."""
        return Spectrum(
            self.negated.merge(other.negated),
            self.positions.merge(other.positions),
            self.classes.merge(other.classes),
        )

    def to(self, device: torch.device | str) -> Spectrum:
        """These on a device."""
        negated, positions = self.negated.to(device), self.positions.to(device)
        return Spectrum(negated, positions, self.classes.to(device))

    def arrays(self, labels: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved; ``from_arrays`` takes them back.

        Args:
            labels: all that images may have, in order.
        """
        negated = {f"weakest_{name}": value for name, value in self.negated.arrays().items()}
        kinds = self.positions.kinds.cpu().numpy()
        classes = self.classes.arrays(labels, len(kinds))
        return {**negated, "position_counts": kinds, **classes}

    @classmethod
    def from_arrays(cls, labels: Sequence[str], arrays: Mapping[str, Any]) -> Spectrum:
        """What ``arrays`` gave.

        Raises:
            ValueError: arrays are missing, or do not go together.
        """
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"no arrays {', '.join(missing)} of the spectrum")
        negated = {name: arrays[f"weakest_{name}"] for name in ("scores", "images", "positions")}
        result = cls(
            TopK.from_arrays(negated),
            PositionCounts(torch.from_numpy(arrays["position_counts"])),
            ClassSums.from_arrays(labels, arrays),
        )
        result.check()
        return result

    def check(self) -> None:
        """Make sure that what was read from a record goes together.

        Raises:
            ValueError: it does not.
        """
        units = len(self.negated.scores)
        shapes = {"position_counts": (self.positions.kinds.shape, (units, KINDS))}
        for label, sums in self.classes.sums.items():
            shapes[f"class_sums of {label!r}"] = (sums.shape, (units, LIMBS))
        for name, (shape, expected) in shapes.items():
            if tuple(shape) != expected:
                raise ValueError(f"{name} has the shape {tuple(shape)}, and not {expected}")

    @property
    def weakest(self) -> TopK:
        """The k images of the lowest scores: lower score first, then lower image index, then lower
        position; infinite scores in slots that no image has filled."""
        return replace(self.negated, scores=-self.negated.scores + 0.0)
