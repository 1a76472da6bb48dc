"""Checks of the arrays that measures take."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import NumberError, UsageError

Values = Tensor | np.ndarray[Any, Any]
"""Responses of images."""
Labels = Sequence[object] | Tensor | np.ndarray[Any, Any]
"""A label for each image: anything that divides them."""
AT_ONCE = 2**22
"""Numbers that are brought to double precision at once, so that arrays on disk stay there."""


def tensor_of(values: Values) -> Tensor:
    """Responses as a tensor on the CPU, off the graph on which `featviz.read` gives them.

    Raises:
        UsageError: they are no tensor and no array.
    """
    if isinstance(values, np.ndarray):
        with warnings.catch_warnings():
            # of a file that is mapped for reading: nothing is written
            warnings.simplefilter("ignore")
            return torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
    if isinstance(values, Tensor):
        return values.detach().cpu()
    raise UsageError(f"values are a {type(values).__name__}: give a tensor or an array", "values")


def by_unit(values: Values) -> Tensor:
    """Responses (n, c) as they are, or maps (n, c, h, w) as (n * h * w, c): each position a sample.

    Raises:
        UsageError: they are neither, or there are none.
        NumberError: one is not a number.
    """
    values = tensor_of(values)
    if values.dim() not in (2, 4) or not values.numel():
        raise UsageError(
            f"values of shape {tuple(values.shape)}: give responses (images, c) or maps (images, c, h, w)",
            "values",
        )
    check_numbers(values)
    if values.dim() == 4:
        return values.permute(0, 2, 3, 1).flatten(0, 2)
    return values


def by_image(values: Values) -> Tensor:
    """Responses (n, ...) as (n, features).

    Raises:
        UsageError: there are none.
        NumberError: one is not a number.
    """
    values = tensor_of(values)
    if values.dim() < 2 or not values.numel():
        raise UsageError(
            f"values of shape {tuple(values.shape)}: give (images, features)", "values"
        )
    check_numbers(values)
    return values.flatten(1)


def check_numbers(values: Tensor) -> None:
    """Make sure that there is no NaN, such as the rows of skipped images are.

    Raises:
        NumberError: there is.
    """
    for row in range(0, len(values), rows_at_once(values)):
        if bool(values[row : row + rows_at_once(values)].isnan().any()):
            raise NumberError(
                "some values are NaN: leave out images that could not be read, with "
                "result.readable()"
            )


def rows_at_once(values: Tensor) -> int:
    """How many rows make `AT_ONCE` numbers."""
    return max(1, AT_ONCE * len(values) // max(1, values.numel()))


def class_indices(labels: Labels, n: int) -> tuple[list[str], Tensor]:
    """The classes of n labels in order, numbers by their size, and the index (n,) of each label.

    Raises:
        UsageError: there are more or fewer labels, one is missing, or all are of one class.
    """
    if len(labels) != n:
        raise UsageError(f"{len(labels)} labels for {n} images: give one for each", "labels")
    values = list(map(_plain, labels))
    for label in values:
        if label is None or (isinstance(label, float) and isnan(label)):
            raise UsageError(f"some labels are {label}: leave out images without a label", "labels")
    names = list(map(str, values))
    value_of: dict[str, Any] = dict(zip(names, values, strict=True))
    are_numbers = all(isinstance(label, (int, float)) for label in values)
    classes = sorted(value_of, key=value_of.__getitem__ if are_numbers else None)
    if len(classes) < 2:
        raise UsageError(
            f"all labels are {classes[0]!r}: give images of at least 2 classes", "labels"
        )
    index = {name: i for i, name in enumerate(classes)}
    return classes, torch.tensor([index[name] for name in names])


def _plain(label: Any) -> object:
    """A label that may be a number of torch's or numpy's."""
    return label.item() if isinstance(label, (Tensor, np.generic)) else label
