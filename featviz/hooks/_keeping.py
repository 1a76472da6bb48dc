"""What is kept of a value that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.hooks._structure import leaves, mapped

Reduce = Callable[[str, Any], Any]
"""Takes a layer's name and its output; its return value is kept instead of the output."""
Device = str | torch.device


@dataclass(frozen=True, eq=False)
class Keeping:
    """How values are kept: reduced first, then on another device, then of another type.

    Attributes:
        reduce, device, dtype: None: as they are.
    """

    reduce: Reduce | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @property
    def is_plain(self) -> bool:
        """Whether values are kept as they are."""
        return self.reduce is None and self.device is None and self.dtype is None

    def __call__(self, name: str, value: Any) -> Any:
        """What is kept, with memory of its own: what comes next may work in place, and a view would
        hold all of the tensor that it is of."""
        kept = value
        if self.reduce is not None:
            kept = self.reduce(name, value)
            if kept is None:
                return None
        if self.device is not None or self.dtype is not None:
            kept = mapped(kept, self._converted)
        sources = storages(value)
        kept = mapped(kept, lambda tensor: tensor.clone() if _is_lent(tensor, sources) else tensor)
        return mapped(kept, _owned, np.ndarray)

    def _converted(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else None
        return tensor.to(device=self.device, dtype=dtype)


def keeping(reduce: Reduce | None, to: Device | None, dtype: torch.dtype | None) -> Keeping:
    """How values are kept, as the arguments say.

    Raises:
        UsageError: one of them is no function, no device, or no type of floating point numbers.
    """
    if reduce is not None and not callable(reduce):
        raise UsageError(f"reduce={reduce!r} cannot be called: give a function of name and output")
    check_dtype(dtype)
    return Keeping(reduce, _device(to), dtype)


def check_dtype(dtype: object) -> None:
    """Make sure that values can be kept as this type; None: as they come.

    Raises:
        UsageError: it is no type of floating point numbers.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UsageError(
            f"dtype={dtype!r}: give a type of floating point numbers, such as torch.float16"
        )


def _device(to: Device | None) -> torch.device | None:
    if to is None:
        return None
    try:
        return torch.device(to)
    except (RuntimeError, TypeError):
        raise UsageError(f"to={to!r} is no device: give 'cpu', 'cuda' or 'cuda:1'") from None


def storages(value: Any) -> set[int]:
    """Where the tensors of a structure have their memory."""
    return _addresses(leaves(value))


def shares_memory(tensor: Tensor, sources: set[int]) -> bool:
    """Whether the memory of a tensor is among these; also where it has none that can be asked for."""
    try:
        return tensor.untyped_storage().data_ptr() in sources
    except RuntimeError:  # sparse, or of a kind that has no memory
        return True


def _addresses(tensors: Iterable[Tensor]) -> set[int]:
    addresses = set()
    for tensor in tensors:
        try:
            addresses.add(tensor.untyped_storage().data_ptr())
        except RuntimeError:
            continue
    return addresses


def _is_lent(tensor: Tensor, sources: set[int]) -> bool:
    """Whether a tensor has less than all of its memory, or shares it with one of the sources."""
    if shares_memory(tensor, sources):
        return True
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


def _owned(array: Any) -> Any:
    return array if array.flags.owndata else array.copy()
