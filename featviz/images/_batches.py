"""Batches of items: those of a chunk that can be read, of one shape, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from featviz.errors import ImageError, SizeError
from featviz.images._items import in_unit_range
from featviz.images._reading import Outcome

OnError = Callable[[int, ImageError], None] | None
"""Told of each image that cannot be read; None: its error is raised."""


def readable(
    chunk: Sequence[int], outcomes: Sequence[Outcome], on_error: OnError
) -> tuple[list[int], list[Tensor]]:
    """Those indices of a chunk whose items could be read, and the items."""
    indices: list[int] = []
    items: list[Tensor] = []
    for index, outcome in zip(chunk, outcomes, strict=True):
        if isinstance(outcome, Tensor):
            indices.append(index)
            items.append(outcome)
        elif on_error is None:
            raise outcome
        else:
            on_error(index, outcome)
    return indices, items


def check_shape(key: str, shape: Sequence[int], expected: Sequence[int], *, own: bool) -> None:
    """Make sure that an item has the shape that it has to have.

    Args:
        key: of the image.
        shape, expected: (c, h, w).
        own: whether images are of sizes of their own, which their files said.

    Raises:
        ImageError: it has another than its file said.
        SizeError: it has another than the other images.
    """
    if tuple(shape) == tuple(expected):
        return
    if own:
        raise ImageError(f"image {key!r} is {hxw(shape)}, and its file said {hxw(expected)}")
    raise SizeError(
        f"image {key!r} is {hxw(shape)}, the others are {hxw(expected)}: give the size that the model is "
        "to see, or take images.at_own_sizes()",
        "size",
        "resize",
    )


def stacked(items: list[Tensor], pinned: bool) -> Tensor:
    """Items (c, h, w) as a batch, in 8 bits if all of them are; if ``pinned``, in memory from which a GPU takes them
    while Python goes on."""
    if len({item.dtype for item in items}) > 1:
        items = [in_unit_range(item) for item in items]
    if len({(item.dtype, item.device) for item in items}) > 1 or items[0].device.type != "cpu":
        return torch.stack(items)
    batch = torch.empty(len(items), *items[0].shape, dtype=items[0].dtype, pin_memory=pinned)
    # by this thread alone: to wake others for so little takes longer, and keeps them from reading images
    np.stack([item.numpy() for item in items], out=batch.numpy())
    return batch


def hxw(shape: Sequence[int]) -> str:
    """Height and width in words: ``96x128``."""
    return f"{shape[-2]}x{shape[-1]}"
