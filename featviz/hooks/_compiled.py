"""Models that ``torch.compile`` has compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eagerly(model: nn.Module) -> Iterator[None]:
    """Within the block, what ``torch.compile`` has compiled of a model runs as it was written:
    compiled code that ran before hooks were set would pass them by."""
    if not _is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(model: nn.Module) -> bool:
    """Whether a model, or a module in it, is ``torch.compile(module)`` or had its ``compile`` called."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
