"""The forward passes of one block: where each begins and ends, and how often a module is called in it."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Container
from functools import cached_property
from itertools import chain
from types import FrameType
from weakref import WeakKeyDictionary

import torch
from torch.utils import checkpoint

from featviz.errors import LayerError
from featviz.forward import Pass, current_pass
from featviz.hooks._targets import Target


class Follower:
    """What the hooks of one block share.

    Attributes:
        targets: the layers of the block, by module.
        inputs: whether it is about their inputs instead of their outputs.
        is_single: whether all that the block runs is one forward, as of `read`; otherwise every call
            of the model from outside begins another.
        calls: by module, how often it has been called in the present forward.
        entered: the module that was called from outside the model and is running in this pass; "" is
            the model itself, None: there is none.
        used: the names of the layers that took part in any forward.
        has_run: whether a forward has come to its end.
        wanted: the targets in one list.
        owner: the thread, and the backward pass in it, that opened the block; None: it has ended.
    """

    def __init__(
        self, targets: dict[str, list[Target]], inputs: bool, is_single: bool = False
    ) -> None:
        self.targets = targets
        self.inputs = inputs
        self.is_single = is_single
        self.calls: Counter[str] = Counter()
        # by the forward pass of featviz's, if there is one: one that was stopped does not leave
        self._entered: WeakKeyDictionary[Pass, str | None] = WeakKeyDictionary()
        self._entered_alone: str | None = None
        self.used: set[str] = set()
        self.has_run = False
        self.wanted = list(chain.from_iterable(targets.values()))
        self.owner: tuple[int, int] | None = caller()

    @cached_property
    def below(self) -> dict[str, list[Target]]:
        """By module, the targets in it, for every module that has some."""
        below: dict[str, list[Target]] = {"": []}
        for target in self.wanted:
            for path in _paths_above(target.path):
                below.setdefault(path, []).append(target)
        return below

    @property
    def entered(self) -> str | None:
        """The module that was called from outside the model and is running; None: there is none."""
        passed = current_pass()
        return self._entered_alone if passed is None else self._entered.get(passed)

    @entered.setter
    def entered(self, path: str | None) -> None:
        passed = current_pass()
        if passed is None:
            self._entered_alone = path
        else:
            self._entered[passed] = path

    def enter(self, path: str) -> None:
        """A module that has targets in it is called: where that is from outside, a forward begins."""
        if self.entered is not None and _is_below(path, self.entered):
            return
        self.entered = path
        self.begin(self._targets_of(path))

    def leave(self, path: str, has_raised: bool) -> None:
        """A module that has targets in it has ended, or raised an error."""
        if path != self.entered:
            return
        self.entered = None
        if not has_raised:
            self.has_run = True
            self.end(self._targets_of(path))

    def begin(self, targets: list[Target]) -> None:
        """A forward begins that these targets may take part in."""
        for target in targets:
            self.calls.pop(target.path, None)

    def end(self, targets: list[Target]) -> None:
        """A forward of these targets has come to its end."""

    def due(self, path: str, is_alone: bool) -> list[Target]:
        """A module is called: those of its targets that this call is.

        Args:
            is_alone: whether it is called by itself, from outside the model.
        """
        targets = self.targets[path]
        if is_alone:
            self.begin(targets)
            self.has_run = True
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        due = [target for target in targets if target.call in (None, call)]
        for target in due:
            if call > 0 and target.call is None:
                raise LayerError(
                    f"layer {path!r} is called more than once in one forward: "
                    f"say which call, '{path}@0' or '{path}@1'"
                )
            self.used.add(target.name)
        return due

    def close(self) -> None:
        """The block has ended: hooks that something still calls do nothing."""
        self.owner = None

    @property
    def is_alone(self) -> bool:
        """Whether a module that is called now is called by itself, from outside the model."""
        return not self.is_single and self.entered is None

    def check_used(self) -> None:
        """Make sure that every layer took part in some forward, if there was one."""
        if self.has_run:
            self.check(self.used)

    def check(self, names: Container[str]) -> None:
        """Make sure that every layer is among these."""
        for target in self.wanted:
            if target.name not in names:
                times = self.calls[target.path]
                compiled = (
                    " (code that was compiled before the block calls none, and a module around it may take "
                    "its weights without calling it, as MultiheadAttention does)"
                )
                raise LayerError(
                    f"layer {target.name!r} took no part in this forward: its module was called "
                    f"{times} times, counted from @0{'' if times else compiled}"
                )

    def _targets_of(self, path: str) -> list[Target]:
        """Those of a module and of all in it."""
        return self.below[path] + self.targets.get(path, [])


def caller() -> tuple[int, int]:
    """The thread that runs, and the backward pass in which it is; -1: in none."""
    return threading.get_ident(), torch._C._current_graph_task_id()


def runs_again() -> bool:
    """Whether this is a segment of gradient checkpointing, which the backward pass runs again and
    compares with the first time, so that the first must go to its end."""
    # torch has no way of saying it that is there in every version; the stack has
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def _paths_above(path: str) -> list[str]:
    """The modules that a module lies in, the model first: "", "a" and "a.b" of "a.b.c"."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(len(names))]


def _is_below(path: str, above: str) -> bool:
    """Whether a module lies in another."""
    if not above:
        return path != ""
    return path.startswith(above + ".")
