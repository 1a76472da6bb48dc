"""Images with labels as a data set to train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from featviz.errors import ImageError
from featviz.images import Images


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """``Images`` whose labels are the classes, in alphabetical order; item i is (image, class
    index), (c, h, w) in [0, 1].

    Args:
        images: with a label each.
        classes: in which order classes are numbered; None: alphabetically, those that occur.

    Raises:
        ImageError: an image without a label, or of a class that is not among ``classes``.
    """

    def __init__(self, images: Images, classes: Sequence[str] | None = None) -> None:
        unlabelled = [
            key for key, label in zip(images.keys, images.labels, strict=True) if label is None
        ]
        if unlabelled:
            raise ImageError(
                f"image {unlabelled[0]!r} has no label: put the images of each class in a folder of its own"
            )
        labels = [str(label) for label in images.labels]
        self.images, self.classes = (
            images,
            sorted(set(labels)) if classes is None else list(classes),
        )
        foreign = sorted(set(labels) - set(self.classes))
        if foreign:
            raise ImageError(f"class {foreign[0]!r} is not among those of the training set")
        self.targets = [self.classes.index(label) for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def split(n: int, share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """A seeded random split of n items: indices to train on, and a ``share`` of them to test on."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    test = max(1, round(share * n))
    return order[test:], order[:test]
