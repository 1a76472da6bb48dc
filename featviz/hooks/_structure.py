"""Tensors within what layers return and are given: in tuples, lists, dictionaries and data classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def mapped(value: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same structure, with what is of a kind changed.

    Tuples, named tuples, lists, dictionaries and data classes are made anew, each of its own class;
    any other object is the same in both.
    """
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        make = getattr(value, "_make", type(value))  # named tuples take their fields one by one
        return make([mapped(item, change, kind) for item in value])
    if isinstance(value, list):
        items = copy.copy(value)
        items[:] = [mapped(item, change, kind) for item in value]
        return items
    if isinstance(value, dict):
        entries = copy.copy(value)
        for key, item in value.items():
            entries[key] = mapped(item, change, kind)
        return entries
    if is_dataclass(value) and not isinstance(value, type):
        record = copy.copy(value)
        for entry in fields(value):
            item = getattr(value, entry.name, None)
            object.__setattr__(record, entry.name, mapped(item, change, kind))
        return record
    return value


def leaves(value: Any, kind: type = Tensor) -> list[Any]:
    """What is of a kind, in the order of the structure."""
    result: list[Any] = []

    def keep(leaf: Any) -> Any:
        result.append(leaf)
        return leaf

    mapped(value, keep, kind)
    return result
