"""How far units tell classes apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featviz.measures._values import Labels, Values, by_unit, class_indices, tensor_of


class ClassSelectivity(NamedTuple):
    """The class selectivity of c units.

    Attributes:
        selectivity: (c,) in [0, 1]: 0 where all classes excite a unit alike, 1 where one does alone; NaN
            where none does.
        preferred: (c,) int64, the class with the highest mean, as an index into ``classes``.
        classes: their names, in order, numbers by their size.
    """

    selectivity: Tensor
    preferred: Tensor
    classes: list[str]


def class_means(values: Values, labels: Labels) -> tuple[list[str], Tensor]:
    """The mean response of each unit to each class. Labels can be anything that divides the images: one
    factor of a class, such as its colour, gives a tuning curve over that factor.

    Args:
        values: responses (images, c); of maps (images, c, h, w) the mean over positions is taken.
        labels: of each image.

    Returns:
        The classes in order, numbers by their size, and (classes, c) float64.

    Raises:
        UsageError: values or labels that do not go together, or a single class.
        NumberError: values that are NaN.

    Example:
        >>> import torch
        >>> from featviz.measures import class_means
        >>> class_means(torch.tensor([[1.0], [3.0], [8.0]]), ["a", "a", "b"])
        (['a', 'b'], tensor([[2.],
                [8.]], dtype=torch.float64))
    """
    by_unit(values)  # checks
    values = tensor_of(values)
    classes, indices = class_indices(labels, len(values))
    means = []
    for i in range(len(classes)):
        own = values[indices == i].double()
        means.append(own.mean(dim=(0, *range(2, own.dim()))))
    return classes, torch.stack(means)


def class_selectivity(values: Values, labels: Labels) -> ClassSelectivity:
    """(highest - others) / (highest + others) of each unit: the highest of its mean responses to a
    class, and the mean of those to the other classes. Responses below zero count as zero.

    Args:
        values: responses (images, c), or maps (images, c, h, w), which are averaged over positions.
        labels: of each image.

    Raises:
        UsageError: values or labels that do not go together, or a single class.
        NumberError: values that are NaN.

    Source: Morcos, Barrett, Rabinowitz & Botvinick, On the importance of single directions for
    generalization, ICLR 2018, section A.2.

    Example:
        >>> import torch
        >>> from featviz.measures import class_selectivity
        >>> values = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 1.0]])
        >>> class_selectivity(values, ["a", "a", "b"]).selectivity.tolist()
        [0.5, 0.0]
    """
    classes, means = class_means(tensor_of(values).clamp(min=0), labels)
    highest, preferred = means.max(dim=0)
    others = (means.sum(dim=0) - highest) / (len(classes) - 1)
    return ClassSelectivity((highest - others) / (highest + others), preferred, classes)
