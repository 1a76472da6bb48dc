"""Activations that work in place on a view, made visible to backward rules.

``relu_`` on a view of a tensor (the output of an instance norm, a slice, a permuted map) leaves one
node on the autograd graph, ``CopySlices``, which hides what was done. Within `visible_in_place` such
an activation runs out of place, and its result is copied into the view: the values are the same,
and the activation is a node of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from featviz.errors import ModelError

_ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "threshold",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "silu",
    "mish",
    "hardswish",
    "rrelu",
    "clamp",
    "clip",
    "clamp_min",
    "clamp_max",
    "sigmoid",
    "tanh",
    "hardsigmoid",
)
_LINEAR = {"copy_", "__setitem__", "add_", "sub_", "mul_", "div_", "neg_", "zero_", "fill_"}
"""What may be done in place to a view without hiding a rectifier."""


class visible_in_place(TorchFunctionMode):  # a context, named as what it does
    """Within the block no activation works in place on a view.

    Attributes:
        copies: the nodes of the graph that only copy, or add and multiply, into a view.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: set[Node] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        try:
            return self._called(func, args, kwargs or {})
        except RuntimeError as error:
            if "returns multiple views" not in str(error):
                raise
            raise _several_views(func) from error

    def _called(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """What a function gives; an activation that works in place on a view runs out of place."""
        if func is F.pad and "circular" in (*args[2:3], kwargs.get("mode")):
            result = func(*args, **kwargs)
            self._note_all(result)
            return result
        target = args[0] if args else None
        if not isinstance(target, Tensor) or not _works_in_place(func, args, kwargs):
            return func(*args, **kwargs)
        name = func.__name__
        if name in _LINEAR:
            result = func(*args, **kwargs)
            if not _has_mask(name, args, kwargs):
                self._note(target)
            return result
        twin = _out_of_place(name)
        if twin is None or not target._is_view():
            return func(*args, **kwargs)
        kwargs.pop("inplace", None)
        # some keep what they are given for the backward pass, which the copy would write over
        before = target.clone()
        result = target.copy_(_called(twin, func, (before, *args[1:]), kwargs))
        self._note(target)
        return result

    def _note(self, target: Tensor) -> None:
        base = target._base if target._is_view() else target
        node = None if base is None else base.grad_fn
        if _copies_into_view(node):
            self.copies.add(node)

    def _note_all(self, padded: Tensor) -> None:
        """Circular padding copies the middle and its borders into an empty tensor, one by one."""
        node = padded.grad_fn
        while _copies_into_view(node):
            self.copies.add(node)
            node = node.next_functions[0][0]


def _copies_into_view(node: Node | None) -> TypeGuard[Node]:
    return node is not None and node.name().endswith("CopySlices")  # torch::autograd:: before it


def _several_views(func: Callable[..., Any]) -> ModelError:
    """Work in place on one of several views, or on their base; the function may come upon it later."""
    name = getattr(func, "__name__", "a function")
    return ModelError(
        f"at {name!r}: the model works in place on an output of chunk, split or unbind, or on what it "
        "is a view of, which autograd refuses, in training too: let it work out of place there, or on "
        "a clone()"
    )


def _has_mask(name: str, args: Any, kwargs: Any) -> bool:
    """Whether work in place assigns to a mask, or multiplies by one: it may be a rectifier's."""
    if name == "__setitem__":
        return not _is_basic(args[1])
    operands = (*args[1:], *kwargs.values())
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in operands)


def _is_basic(index: Any) -> bool:
    """Whether an index is of numbers and slices alone."""
    items = index if isinstance(index, tuple) else (index,)
    return not any(isinstance(item, (Tensor, list)) for item in items)


def _works_in_place(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        return True
    return bool(name in _ACTIVATIONS and _bound(func, args, kwargs).get("inplace"))


def _bound(func: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a function by name; none where it does not say their names."""
    try:
        return dict(inspect.signature(func).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {}


def _out_of_place(name: str) -> Callable[..., Any] | None:
    """The activation of this name that gives a new tensor."""
    bare = name.removesuffix("_")
    if bare not in _ACTIVATIONS:
        return None
    twin: Callable[..., Any] | None = getattr(F, bare, None) or getattr(torch, bare, None)
    return twin


def _called(twin: Callable[..., Any], func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
    """The twin with the arguments that the function in place was given."""
    if twin.__name__ == func.__name__:  # one function with an argument ``inplace``
        arguments = _bound(func, args, kwargs)
        arguments["inplace"] = False
        result: Tensor = twin(**arguments)
        return result
    return twin(*args, **kwargs)  # type: ignore[no-any-return]
