"""Images with labels as a data set to train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from featviz.errors import ImageError
from featviz.images.collection import Images


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """``Images`` whose labels are the classes; item i is (image, class index), (c, h, w) in [0, 1].

    Attributes:
        images: with a label each.
        classes: in the order in which they are numbered.
        targets: the class index of each image.

    Args:
        images: with a label each.
        classes: in which order classes are numbered; None: alphabetically, those that occur.

    Raises:
        ImageError: an image without a label, or of a class that is not among ``classes``.

    Example:
        >>> from featviz import open_images
        >>> from featviz.data import LabelledImages, SyntheticImages
        >>> data = LabelledImages(open_images(SyntheticImages(2, seed=1)))
        >>> data.classes
        ['checked red ring', 'dotted blue crescent']
    """

    def __init__(self, images: Images, classes: Sequence[str] | None = None) -> None:
        labels = _labels_of(images)
        if classes is None:
            classes = sorted(set(labels))
        foreign = sorted(set(labels) - set(classes))
        if foreign:
            raise ImageError(
                f"class {foreign[0]!r} is not among those of the training set", "images"
            )
        self.images = images
        self.classes = list(classes)
        self.targets = [self.classes.index(label) for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def _labels_of(images: Images) -> list[str]:
    labels = []
    for key, label in zip(images.keys, images.labels, strict=True):
        if label is None:
            raise ImageError(
                f"image {key!r} has no label: put the images of each class in a folder of its own",
                "images",
            )
        labels.append(label)
    return labels


def split(n: int, share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """A seeded random split of n items: indices to train on, and a ``share`` of them to test on.

    Example:
        >>> from featviz.data import split
        >>> training, testing = split(10, 0.2)
        >>> len(training), len(testing)
        (8, 2)
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    test = max(1, round(share * n))
    return order[test:], order[:test]
