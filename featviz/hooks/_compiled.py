"""Models that ``torch.compile`` has compiled."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

_lock = threading.Lock()
_stance = ExitStack()
_blocks = 0


@contextmanager
def eagerly(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, what ``torch.compile`` has compiled of the modules of a model runs as it was
    written: compiled code that ran before hooks were set would pass them by."""
    if not any(map(_is_compiled, modules)):
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


# The stance is one for all threads, and blocks of threads or generators need not end in the order in
# which they began: the first of them sets it, and the last one that is left sets it back.


def _enter() -> None:
    global _blocks
    with _lock:
        if _blocks == 0:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _blocks += 1


def _leave() -> None:
    global _blocks
    with _lock:
        _blocks -= 1
        if _blocks == 0:
            _stance.close()


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module is ``torch.compile(module)`` or had its ``compile`` called."""
    if "_orig_mod" in module._modules:
        return True
    return getattr(module, "_compiled_call_impl", None) is not None
