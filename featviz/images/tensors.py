"""Images that come as tensors."""

from __future__ import annotations

from torch import Tensor

from featviz.errors import UsageError


def as_batch(x: Tensor) -> Tensor:
    """One image (c, h, w), or several (n, c, h, w), as several.

    Raises:
        UsageError: it is neither, or not floating point.
    """
    if not isinstance(x, Tensor):
        raise UsageError(
            f"x is a {type(x).__name__}: give a tensor of floating point images (c, h, w) or "
            "(n, c, h, w) in model space"
        )
    batch = x[None] if x.dim() == 3 else x
    if batch.dim() != 4 or not len(batch) or not batch.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: "
            "give floating point images (c, h, w) or (n, c, h, w) in model space"
        )
    return batch
