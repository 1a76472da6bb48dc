"""Hooks on modules, as a reader needs them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from featviz.errors import LayerError
from featviz.hooks._follower import Follower, caller
from featviz.hooks._reader import Reader


def check_takes_hooks(path: str, module: nn.Module) -> None:
    """Make sure that hooks on a module are called.

    Raises:
        LayerError: it is scripted.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {path!r} is scripted, which takes no hooks: "
            "use the model before it was scripted"
        )


def of_inputs(take: Callable[[Any], Any]) -> Callable[..., Any]:
    """The work of a hook that has keyword arguments, too: ``take`` gets what the module is given, a
    tuple where that is several values, and returns what takes its place; None: it stays."""

    def on_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = (*args, *kwargs.values())
        is_single = len(values) == 1
        others = take(values[0] if is_single else values)
        if others is None:
            return None
        if is_single:
            others = (others,)
        return tuple(others[: len(args)]), dict(zip(kwargs, others[len(args) :], strict=True))

    return on_inputs


def on_call(path: str, module: nn.Module, reader: Reader) -> RemovableHandle:
    """Set the hook that reads a module."""
    check_takes_hooks(path, module)
    if reader.inputs:
        hook = WorkHook(module, reader, of_inputs(partial(reader.take, path)))
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(_OutputHook(module, reader, path))


def around(path: str, module: nn.Module, follower: Follower) -> list[RemovableHandle]:
    """Set the hooks that tell where a module begins, before any other, and where it ends."""
    return [
        module.register_forward_pre_hook(_BeginHook(module, follower, path), prepend=True),
        module.register_forward_hook(_EndHook(module, follower, path), always_call=True),
    ]


@contextmanager
def removed() -> Iterator[list[RemovableHandle]]:
    """A list of hooks; at the end of the block they are removed, also when it raised."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


class Owned(Protocol):
    """What hooks work for: that of one thread, and of the backward pass in it."""

    owner: tuple[int, int] | None


T = TypeVar("T", bound=Owned)


class Hook(ABC, Generic[T]):
    """A hook of one block on one module; a copy of it, as in a copy of the model, does nothing."""

    __slots__ = ("module", "owned")

    def __init__(self, module: nn.Module, owned: T) -> None:
        self.module = module
        self.owned = owned

    @abstractmethod
    def work(self, *args: Any) -> Any:
        """What the hook does, called as it is but for the module."""

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return _untraced(self, module, *args)
        return self._run(module, *args)

    def _run(self, module: nn.Module, *args: Any) -> Any:
        if module is not self.module or caller() != self.owned.owner:
            return None
        return self.work(*args)

    def __reduce__(self) -> Any:
        return _idle_hook, ()


class WorkHook(Hook[Owned]):
    """A hook that calls a function."""

    __slots__ = ("function",)

    def __init__(self, module: nn.Module, owned: Owned, function: Callable[..., Any]) -> None:
        super().__init__(module, owned)
        self.function = function

    def work(self, *args: Any) -> Any:
        return self.function(*args)


class _PathHook(Hook[T]):
    """A hook that knows the path of its module instead of having a function.

    A block sets these by the dozen. They are small, since Python looks through all objects for garbage
    whenever there are some hundred more of them.
    """

    __slots__ = ("path",)

    def __init__(self, module: nn.Module, owned: T, path: str) -> None:
        super().__init__(module, owned)
        self.path = path


class _OutputHook(_PathHook[Reader]):
    __slots__ = ()

    def work(self, args: tuple[Any, ...], output: Any) -> Any:
        return self.owned.take(self.path, output, args)


class _BeginHook(_PathHook[Follower]):
    __slots__ = ()

    def work(self, args: tuple[Any, ...]) -> None:
        self.owned.enter(self.path)


class _EndHook(_PathHook[Follower]):
    __slots__ = ()

    def work(self, args: tuple[Any, ...], output: Any) -> None:
        has_raised = output is None and sys.exc_info()[0] is not None
        self.owned.leave(self.path, has_raised)


# compiled code calls it between two graphs
_untraced = torch.compiler.disable(Hook._run)  # type: ignore[no-untyped-call]


def _idle_hook() -> Callable[..., None]:
    return _ignore


def _ignore(*args: Any) -> None:
    """The hook of a copy."""
