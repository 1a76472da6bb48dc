"""How a model is called: as ``model(images)``, or by a function that knows what else it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, UsageError
from featviz.pooling import quick_pooling

Forward = Callable[[nn.Module, Tensor], Any]
"""Calls a model on a batch of images (n, c, h, w) in model space, and returns its output."""

_running = threading.local()


class Pass:
    """One forward pass, which may call a model, or what is in it, several times.

    Attributes:
        is_done: whether it has come to its end.
    """

    def __init__(self) -> None:
        self.is_done = False


def current_pass() -> Pass | None:
    """The forward pass of `call_model` that runs in this thread; None: there is none."""
    return getattr(_running, "current", None)


@dataclass(frozen=True)
class AsWritten:
    """Calls a model with the operations that it names, and none that gives the same values sooner: for what
    follows them one by one, or for a model that has no use for the mode in which max-pooling is quick, which takes
    some percent of a small network's time.

    Attributes:
        forward: how the model is called; None: ``model(images)``.

    Raises:
        UsageError: ``forward`` cannot be called.
    """

    forward: Forward | None

    def __post_init__(self) -> None:
        _check(self.forward)

    def __call__(self, model: nn.Module, images: Tensor) -> Any:
        return _called(model, images, self.forward)


def call_model(model: nn.Module, images: Any, forward: Forward | None = None) -> Any:
    """One forward pass: every call of a model goes by here.

    Args:
        model: any module.
        images: (n, c, h, w) in model space.
        forward: how the model is called; None: ``model(images)``.

    Raises:
        UsageError: ``forward`` cannot be called.
    """
    _check(forward)
    before = current_pass()
    _running.current = Pass()
    try:
        with nullcontext() if isinstance(forward, AsWritten) else quick_pooling():
            output = _called(model, images, forward)
        _running.current.is_done = True
    finally:
        _running.current = before
    return output


def _check(forward: object) -> None:
    """Make sure that this is a way to call a model.

    Raises:
        UsageError: it cannot be called.
    """
    if forward is not None and not callable(forward):
        raise UsageError(
            f"forward={forward!r} cannot be called: give a function forward(model, images), or None"
        )


def within(block: AbstractContextManager[Any], forward: Forward | None) -> Forward:
    """How a model is called in a block that only holds the forward pass."""

    def call(model: nn.Module, images: Any) -> Any:
        with block:
            return _called(model, images, forward)

    return call


def _called(model: nn.Module, images: Any, forward: Forward | None) -> Any:
    return model(images) if forward is None else forward(model, images)


def check_module(model: object) -> None:
    """Make sure that a model is a module whose layers can take hooks.

    Raises:
        ModelError: it is none, or an exported program.
    """
    check_modules([*model.modules()] if isinstance(model, nn.Module) else [model])


def check_modules(modules: Collection[object]) -> None:
    """As `check_module`, of a model whose modules are listed already."""
    if any(map(_is_exported, modules)):
        raise ModelError(
            "the model is an exported program, which calls no modules and so has no layers: use the "
            "model before torch.export.export, or torch.export.unflatten(program)"
        )
    for module in modules:
        if not isinstance(module, nn.Module):
            raise ModelError(f"the model is a {type(module).__name__}: give a torch.nn.Module")


def _is_exported(model: object) -> bool:
    """Whether this is an exported program, or what its ``module()`` gives: a graph whose modules
    hold weights and are not called."""
    if isinstance(model, torch.export.ExportedProgram):
        return True
    if not isinstance(model, torch.fx.GraphModule):
        return False
    called = {node.target for node in model.graph.nodes if node.op == "call_module"}
    operators = [node.target for node in model.graph.nodes if node.op == "call_function"]
    has_layers = bool(called - {"_guards_fn"})  # which checks the inputs of an exported program
    return not has_layers and any(isinstance(o, torch._ops.OpOverload) for o in operators)
