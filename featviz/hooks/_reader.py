"""What the hooks of one block read, and what they keep of it."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from itertools import chain
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import checkpoint

from featviz.errors import LayerError
from featviz.hooks._targets import Target

Reduce = Callable[[str, Tensor], Any]
"""Takes a layer's name and its output; its return value is kept instead of the output."""


class Stop(BaseException):
    """All that was asked for has been read. Not an Exception, so that a model's own ``except``
    lets it through."""


class _Values(dict[str, Any]):
    """By name, what was read in the present forward."""

    def __missing__(self, name: str) -> Any:
        raise LayerError(
            f"nothing is read of layer {name!r}: it took no part in the last forward, "
            "or was not asked for"
        )


@dataclass
class Reader:
    """What the hooks of one block share.

    Attributes:
        targets: the layers to read, by module.
        reduce: applied to what is read, if there is one.
        inputs: whether inputs are read instead of outputs.
        stops: whether the forward ends when all is read.
        is_single: whether all that the block runs is one forward, of `read`; otherwise every call of the
            model from outside begins another.
        values: by name, what was read in the present forward.
        calls: by module, how often it has been called in the present forward.
        entered: the module that was called from outside the model and is running; None: there is
            none. It is "" for the model itself.
        used: the names of what was read in any forward.
        has_run: whether a forward has come to its end.
        wanted: the targets in one list.
        below: by module, the targets in it, for every module that has some.
        owner: the thread, and the backward pass in it, that opened the block.
    """

    targets: dict[str, list[Target]]
    reduce: Reduce | None
    inputs: bool
    stops: bool = False
    is_single: bool = False
    values: _Values = field(default_factory=_Values)
    calls: Counter[str] = field(default_factory=Counter)
    entered: str | None = None
    used: set[str] = field(default_factory=set)
    has_run: bool = False

    def __post_init__(self) -> None:
        self.wanted = list(chain.from_iterable(self.targets.values()))
        self.owner = caller()
        self.below: dict[str, list[Target]] = {"": []}
        for target in self.wanted:
            for path in _paths_above(target.path):
                self.below.setdefault(path, []).append(target)

    def enter(self, path: str) -> None:
        """A module that has targets in it is called: where that is from outside, a forward begins."""
        if self.entered is not None and _is_below(path, self.entered):
            return
        self.entered = path
        self._forget(self.below[path])

    def leave(self, path: str) -> None:
        """A module that has targets in it has ended."""
        if path == self.entered:
            self.entered = None
            self.has_run = True

    def _forget(self, targets: list[Target]) -> None:
        for target in targets:
            self.values.pop(target.name, None)
            self.calls.pop(target.path, None)

    def check_all(self) -> None:
        """Make sure that every layer took part in the present forward."""
        self._check(self.values.keys())

    def check_used(self) -> None:
        """Make sure that every layer took part in some forward, if there was one."""
        if self.has_run:
            self._check(self.used)

    def _check(self, names: Container[str]) -> None:
        for target in self.wanted:
            if target.name not in names:
                times = self.calls[target.path]
                raise LayerError(
                    f"layer {target.name!r} took no part in this forward: "
                    f"its module was called {times} times, counted from @0"
                )

    def due(self, path: str) -> list[Target]:
        """A module is called: those of its targets that this call is."""
        if self.entered is None and not self.is_single:  # called by itself, from outside the model
            self._forget(self.targets[path])
            self.has_run = True
        call = self.calls[path]
        self.calls[path] += 1
        targets = [target for target in self.targets[path] if target.call in (None, call)]
        if call > 0 and any(target.call is None for target in targets):
            raise LayerError(
                f"layer {path!r} is called more than once in one forward: "
                f"say which call, '{path}@0' or '{path}@1'"
            )
        return targets

    def take(self, path: str, value: Any) -> Any:
        """Read what a module returns or is given; what comes back takes its place, unless None."""
        targets = self.due(path)
        if not targets:
            return None
        if not self.inputs and not isinstance(value, Tensor):
            kind = type(value).__name__
            raise LayerError(
                f"layer {path!r} returns a {kind}, not a tensor: ask for a layer inside it"
            )
        for target in targets:
            if self.reduce is None:
                self.values[target.name] = value
            else:
                self.values[target.name] = _apart(self.reduce(target.name, value), value)
            self.used.add(target.name)
        if self.stops and len(self.values) == len(self.wanted) and not _runs_again():
            raise Stop
        if self.reduce is not None:
            return None
        # what comes next may work in place: it is given a copy, and what was read stays as it is
        return _copied(value)


def _copied(value: Any) -> Any:
    """Tensors, and those in lists and tuples, as copies on the autograd graph."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value


def _apart(kept: Any, source: Any) -> Any:
    """What is kept of a layer's output, with memory of its own: what comes next may work in place,
    and a view would hold all of the tensor that it is of."""
    if isinstance(kept, Tensor):
        return kept.clone() if _is_lent(kept, source) else kept
    if isinstance(kept, np.ndarray):
        return kept if kept.flags.owndata else kept.copy()
    if type(kept) in (list, tuple):
        return type(kept)(_apart(item, source) for item in kept)
    if type(kept) is dict:
        return {key: _apart(item, source) for key, item in kept.items()}
    return kept


def _is_lent(kept: Tensor, source: Any) -> bool:
    """Whether a tensor has less than all of its memory, or shares it with a tensor of the source."""
    try:
        memory = kept.untyped_storage()
        if memory.nbytes() > kept.numel() * kept.element_size():
            return True
        sources = source if isinstance(source, (list, tuple)) else [source]
        tensors = [item for item in sources if isinstance(item, Tensor)]
        return any(item.untyped_storage().data_ptr() == memory.data_ptr() for item in tensors)
    except RuntimeError:  # sparse, or of a kind that has no memory
        return True


def caller() -> tuple[int, int]:
    """The thread that runs, and the backward pass in which it is; -1: in none."""
    return threading.get_ident(), torch._C._current_graph_task_id()


def _paths_above(path: str) -> list[str]:
    """The modules that a module lies in, the model first: "", "a" and "a.b" of "a.b.c"."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(len(names))]


def _is_below(path: str, above: str) -> bool:
    """Whether a module lies in another."""
    if not above:
        return path != ""
    return path.startswith(above + ".")


def _runs_again() -> bool:
    """Whether this is a segment of gradient checkpointing, which the backward pass runs again and
    compares with the first time, so that the first must go to its end."""
    # torch has no way of saying it that is there in every version; the stack has
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
