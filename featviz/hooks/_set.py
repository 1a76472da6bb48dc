"""Hooks on modules, as a reader needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

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


def on_call(path: str, module: nn.Module, reader: Reader) -> Any:
    """Set the hook that reads a module."""
    check_takes_hooks(path, module)

    def on_output(args: tuple[Any, ...], output: Any) -> Any:
        return reader.take(path, output, args)

    if reader.inputs:
        hook = _Hook(module, reader, of_inputs(partial(reader.take, path)))
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(_Hook(module, reader, on_output))


def around(path: str, module: nn.Module, follower: Follower) -> list[Any]:
    """Set the hooks that tell where a module begins, before any other, and where it ends."""

    def on_begin(args: tuple[Any, ...]) -> None:
        follower.enter(path)

    def on_end(args: tuple[Any, ...], output: Any) -> None:
        has_raised = output is None and sys.exc_info()[0] is not None
        follower.leave(path, has_raised)

    begin = _Hook(module, follower, on_begin)
    end = _Hook(module, follower, on_end)
    return [
        module.register_forward_pre_hook(begin, prepend=True),
        module.register_forward_hook(end, always_call=True),
    ]


class Owned(Protocol):
    """What hooks work for: that of one thread, and of the backward pass in it."""

    owner: tuple[int, int] | None


class _Hook:
    """A hook of one block on one module; a copy of it, as in a copy of the model, does nothing."""

    def __init__(self, module: nn.Module, reader: Owned, work: Callable[..., Any]) -> None:
        self.module = module
        self.reader = reader
        self.work = work

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return _untraced(self, module, *args)
        return self._run(module, *args)

    def _run(self, module: nn.Module, *args: Any) -> Any:
        if module is not self.module or caller() != self.reader.owner:
            return None
        return self.work(*args)

    def __reduce__(self) -> Any:
        return _idle_hook, ()


# compiled code calls it between two graphs
_untraced = torch.compiler.disable(_Hook._run)  # type: ignore[no-untyped-call]


def _idle_hook() -> Callable[..., None]:
    return _ignore


def _ignore(*args: Any) -> None:
    """The hook of a copy."""
