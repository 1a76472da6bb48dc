"""A hash by which a record knows how the model was called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from featviz.forward import Forward
from featviz.records._arrays import hash_of

_VALUES = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device)
"""Types of values that are known by what they print."""


def forward_fingerprint(forward: Forward | None) -> str | None:
    """The name of a function that calls a model, and a hash of what it does: its bytecode, which
    another version of Python makes another, and the values that it takes from outside itself where
    these are numbers, texts, tuples and tensors, or functions of the same module.

    What may change from call to call, such as a list or a module, counts by its type.

    Args:
        forward: the function, or None, which stays None.

    Example:
        >>> from featviz.records.forward_fingerprint import forward_fingerprint
        >>> def forward(model, images):
        ...     return model(images, 1)
        >>> forward_fingerprint(forward) == forward_fingerprint(lambda model, x: model(x, 2))
        False
    """
    return None if forward is None else function_fingerprint(forward)


def function_fingerprint(function: Callable[..., Any]) -> str:
    """The name and the hash of any function, as of `forward_fingerprint`."""
    innermost: Any = function
    while isinstance(innermost, functools.partial):
        innermost = innermost.func
    description = _Description(innermost.__module__).of(function)
    name = getattr(innermost, "__qualname__", type(innermost).__qualname__)
    return f"{name} {hash_of(repr(description).encode())}"


def settings_fingerprint(value: Any) -> str:
    """What stands for a tensor, a function, or an object with settings: of featviz's own its settings in
    words, else as of `forward_fingerprint`."""
    if isinstance(value, Tensor):
        return " ".join(_of_tensor(value))
    kind = type(value)
    if not is_dataclass(value) or not kind.__module__.startswith("featviz."):
        return function_fingerprint(value)
    words = []
    for field in fields(value):
        setting = getattr(value, field.name)
        own = settings_fingerprint(setting) if isinstance(setting, Tensor) else repr(setting)
        words.append(f"{field.name}={own}")
    return f"{kind.__qualname__}({', '.join(words)})"


class _Description:
    """What a function and its values are, as nested tuples of texts.

    Args:
        module: the name of the module whose functions are described by what they do; others are by
            their name.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.known: set[int] = set()  # functions and objects, which can refer to each other

    def of(self, value: Any) -> Any:
        """The description of any value."""
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, CodeType):
            return value.co_code.hex(), value.co_names, self.of(value.co_consts)
        if isinstance(value, MethodType):
            return self.of(value.__func__), self._of_object(value.__self__)
        if isinstance(value, functools.partial):
            return self.of((value.func, value.args, tuple(sorted(value.keywords.items()))))
        if isinstance(value, tuple):
            return tuple(self.of(item) for item in value)
        if isinstance(value, frozenset):
            return tuple(sorted(repr(self.of(item)) for item in value))
        if isinstance(value, _VALUES):
            return repr(value)
        if isinstance(value, Tensor) and not value.requires_grad:
            return _of_tensor(value)
        return self._of_object(value)

    def _of_function(self, function: FunctionType) -> Any:
        """Its code, its defaults and the values from outside it."""
        if function.__module__ != self.module or id(function) in self.known:
            return function.__module__, function.__qualname__
        self.known.add(id(function))
        defaults = tuple(sorted((function.__kwdefaults__ or {}).items()))
        closure = tuple(_held(cell) for cell in function.__closure__ or ())
        names = sorted(_names(function.__code__) & function.__globals__.keys())
        values = tuple((name, function.__globals__[name]) for name in names)
        return self.of((function.__code__, function.__defaults__, defaults, closure, values))

    def _of_object(self, value: Any) -> Any:
        """The type of what has a state; of an object of the module that is no network, also its
        settings and what it does when it is called."""
        kind = type(value)
        name = kind.__module__, kind.__qualname__, getattr(value, "__qualname__", "")
        is_network = isinstance(value, nn.Module)
        if kind.__module__ != self.module or is_network or id(value) in self.known:
            return name
        self.known.add(id(value))
        settings = tuple(sorted(getattr(value, "__dict__", {}).items()))
        call = None
        if callable(value):
            call = kind.__call__
        return name, self.of(call), self.of(settings)


def _held(cell: Any) -> Any:
    """What a closure holds; an empty tuple where that is not there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return ()


def _names(code: CodeType) -> set[str]:
    """Names that code and the functions within it use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _of_tensor(value: Tensor) -> tuple[str, ...]:
    """Its type, shape and bits."""
    bits = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return str(value.dtype), str(tuple(value.shape)), hash_of(bits.numpy().tobytes())
