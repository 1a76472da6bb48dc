"""The mean maximum of every unit over the images of each class, exact in any order and shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.records.sums import LIMBS, sums_by, total_of


@dataclass(frozen=True, eq=False, repr=False)
class ClassSums:
    """Of each label the exact sum of the maxima of c units, and how many images it has had. It takes
    32 c bytes for each label.

    Attributes:
        sums: (c, LIMBS) int64 by label: see `featviz.records.sums`.
        counts: images by label.

    Example:
        >>> import torch
        >>> from featviz.records.class_sums import ClassSums
        >>> peaks = torch.tensor([[1.0], [5.0], [3.0]])
        >>> means = ClassSums({}, {}).update(peaks, ["cat", "dog", "cat"]).means
        >>> {label: mean.tolist() for label, mean in means.items()}
        {'cat': [2.0], 'dog': [5.0]}
    """

    sums: dict[str, Tensor]
    counts: dict[str, int]

    def __repr__(self) -> str:
        return f"<ClassSums of {len(self.counts)} classes, {sum(self.counts.values())} images>"

    def update(self, peaks: Tensor, labels: Sequence[str | None]) -> ClassSums:
        """These, and the maxima (n, c) of images with n labels, on the device of these, which is not
        waited for. Images whose label is None do not count."""
        rows = [row for row, label in enumerate(labels) if label is not None]
        own = [label for label in labels if label is not None]
        if not own:
            return self
        counted = Counter(own)
        group = {label: i for i, label in enumerate(counted)}
        sums = dict(self.sums)
        index = torch.tensor([rows, [group[label] for label in own]], dtype=torch.int64)
        chosen, groups = index.to(peaks.device, non_blocking=True)
        added = sums_by(groups, len(group), peaks.detach().float()[chosen])
        more = dict(zip(group, added.unbind(), strict=True))
        known = [label for label in more if label in sums]
        if known:  # all at once, since there may be thousands
            before, after = [sums[label] for label in known], [more.pop(label) for label in known]
            sums.update(zip(known, torch._foreach_add(before, after), strict=True))
        for label, sum_of_class in more.items():
            sums[label] = sum_of_class.clone()  # a view would hold the sums of all others
        return ClassSums(sums, dict(Counter(self.counts) + counted))

    def merge(self, other: ClassSums) -> ClassSums:
        """These and those of other images."""
        sums, counts = dict(self.sums), dict(self.counts)
        for label, own in other.sums.items():
            sums[label] = sums[label] + own if label in sums else own
            counts[label] = counts.get(label, 0) + other.counts[label]
        return ClassSums(sums, counts)

    def to(self, device: torch.device | str) -> ClassSums:
        """These on a device."""
        return ClassSums({label: own.to(device) for label, own in self.sums.items()}, self.counts)

    def arrays(self, labels: Sequence[str], channels: int) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved; ``from_arrays`` takes them back.

        Args:
            labels: all that there may be, in order.
            channels: c.
        """
        sums = [self.sums[label].cpu() for label in labels if label in self.sums]
        none = torch.zeros(0, channels, LIMBS, dtype=torch.int64)
        counts = [self.counts.get(label, 0) for label in labels]
        return {
            "class_sums": (torch.stack(sums) if sums else none).numpy(),
            "class_counts": np.array(counts, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, labels: Sequence[str], arrays: Mapping[str, Any]) -> ClassSums:
        """What ``arrays`` gave.

        Raises:
            ValueError: counts and sums are not of these labels.
        """
        counts = dict(zip(labels, arrays["class_counts"].tolist(), strict=True))
        counts = {label: count for label, count in counts.items() if count}
        sums = torch.from_numpy(arrays["class_sums"])
        return cls(dict(zip(counts, sums, strict=True)), counts)

    @property
    def means(self) -> dict[str, Tensor]:
        """(c,) float64 the mean maximum of each label, labels in order; magnitudes above 2**54 count as that."""
        return {
            label: total_of(self.sums[label]) / self.counts[label] for label in sorted(self.sums)
        }
