"""Checks of the arrays that measures take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.errors import NumberError, UsageError

AT_ONCE = 2**22
"""Numbers that are brought to double precision at once, so that arrays on disk stay there."""


def by_unit(values: Tensor) -> Tensor:
    """Responses (n, c) as they are, or maps (n, c, h, w) as (n * h * w, c): each position a sample.

    Raises:
        UsageError: they are neither, or there are none.
        NumberError: one is not a number.
    """
    if values.dim() not in (2, 4) or not values.numel():
        raise UsageError(
            f"values of shape {tuple(values.shape)}: give responses (images, c) or maps (images, c, h, w)",
            "values",
        )
    check_numbers(values)
    if values.dim() == 4:
        return values.permute(0, 2, 3, 1).flatten(0, 2)
    return values


def by_image(values: Tensor) -> Tensor:
    """Responses (n, ...) as (n, features).

    Raises:
        UsageError: there are none.
        NumberError: one is not a number.
    """
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


def class_indices(labels: Sequence[object], n: int) -> tuple[list[str], Tensor]:
    """The classes of n labels in order, and the index (n,) of each label.

    Raises:
        UsageError: there are more or fewer labels, one is missing, or all are of one class.
    """
    if len(labels) != n:
        raise UsageError(f"{len(labels)} labels for {n} images: give one for each", "labels")
    if any(label is None for label in labels):
        raise UsageError("some labels are None: leave out images without a label", "labels")
    names = [str(label) for label in labels]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise UsageError(
            f"all labels are {classes[0]!r}: give images of at least 2 classes", "labels"
        )
    index = {name: i for i, name in enumerate(classes)}
    return classes, torch.tensor([index[name] for name in names])
