"""Fields of a JSON record, each checked for its type before it is believed.

Every function takes a field's name and its value, and raises a ValueError that names the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


class Entry:
    """An object of a record.

    Args:
        value: as it was read.
        name: for messages, such as ``layers[3]``.
    """

    def __init__(self, value: Any, name: str = "") -> None:
        if not isinstance(value, dict):
            raise wrong(name or "the record", value, "an object")
        self.value: Mapping[str, Any] = value
        self.name = name

    def take(self, key: str, check: Callable[[str, Any], Value]) -> Value:
        """A field, if it is there and passes a check."""
        name = f"{self.name}.{key}" if self.name else key
        if key not in self.value:
            raise ValueError(f"{name} is missing")
        return check(name, self.value[key])

    def check(self, checks: Mapping[str, Callable[[str, Any], Any]]) -> None:
        """Take fields by name, each under its check."""
        for key, check in checks.items():
            self.take(key, check)


def wrong(name: str, value: Any, allowed: str) -> ValueError:
    """The error about a field that is not what it has to be."""
    shown = repr(value)
    if len(shown) > 40:
        shown = shown[:37] + "..."
    return ValueError(f"{name} is {shown}, and has to be {allowed}")


def entry(name: str, value: Any) -> Entry:
    """An object."""
    return Entry(value, name)


def text(name: str, value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise wrong(name, value, "text")
    return value


def optional_text(name: str, value: Any) -> str | None:
    """Text or null."""
    return None if value is None else text(name, value)


def matching(pattern: str) -> Callable[[str, Any], str]:
    """A check for text that is of a pattern from its first character to its last."""

    def check(name: str, value: Any) -> str:
        if re.fullmatch(pattern, text(name, value)) is None:
            raise wrong(name, value, f"of the pattern {pattern}")
        return str(value)

    return check


def texts(name: str, value: Any) -> dict[str, str]:
    """An object of texts."""
    return {key: text(f"{name}.{key}", item) for key, item in entry(name, value).value.items()}


def anything(name: str, value: Any) -> Any:
    """Whatever it is."""
    return value


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def integer(low: int = 0, high: int = 2**62) -> Callable[[str, Any], int]:
    """A check for whole numbers from ``low`` to ``high``."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, value, f"a whole number from {low} to {high}")
        return value

    return check


def any_of(allowed: tuple[Any, ...]) -> Callable[[str, Any], Any]:
    """A check for some values."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise wrong(name, value, f"one of {', '.join(allowed)}")
        return value

    return check


def list_of(
    check_item: Callable[[str, Any], Value], *lengths: int
) -> Callable[[str, Any], list[Value]]:
    """A check for lists of what passes ``check_item``, of one of these lengths; none: of any."""

    def check(name: str, value: Any) -> list[Value]:
        if not isinstance(value, list) or (lengths and len(value) not in lengths):
            of_length = " or ".join(map(str, lengths))
            raise wrong(name, value, f"a list of {of_length or 'any'} length")
        return [check_item(f"{name}[{i}]", item) for i, item in enumerate(value)]

    return check


def texts_of(*lengths: int) -> Callable[[str, Any], list[str]]:
    """The same for lists of text, which may have millions."""

    def check(name: str, value: Any) -> list[str]:
        is_fine = isinstance(value, list) and (not lengths or len(value) in lengths)
        if is_fine and set(map(type, value)) <= {str}:
            return list(value)
        return list_of(text, *lengths)(name, value)

    return check


def optional(check_value: Callable[[str, Any], Value]) -> Callable[[str, Any], Value | None]:
    """A check for null, or what passes another one."""

    def check(name: str, value: Any) -> Value | None:
        return None if value is None else check_value(name, value)

    return check
