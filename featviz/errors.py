"""Every error that featviz raises on purpose.

    FeatvizError
    ├── LayerError      a layer that does not exist, or whose name is ambiguous (also a LookupError)
    ├── UnitError       a channel or a position outside its layer (also a LookupError)
    ├── RuleError       a backward rule that has no meaning on this network
    ├── ImageError      a folder or an image that cannot be used
    │   └── SizeError   an image of another size than the others
    ├── ModelError      a model that cannot be built, or an input that it cannot take
    ├── WeightsError    a weights file that is missing, unsafe, or does not fit
    ├── RecordError     a scan on disk that is damaged or belongs to something else
    ├── NumberError     an activation that is not a number
    └── UsageError      any other value that is not allowed

The first two are also LookupErrors, all others ValueErrors. A message is one sentence or two: the
value given, the allowed values, the remedy. Messages name arguments of functions; the commands add
their flags, by ``FeatvizError.arguments``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FeatvizError(Exception):
    """Base of all errors raised on purpose by featviz; catch this one to catch them all.

    Attributes:
        arguments: names of the function arguments that are the remedy, such as ``("out", "fresh")``.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments


class LayerError(FeatvizError, LookupError):
    """A layer that does not exist, or whose name is ambiguous."""


class UnitError(FeatvizError, LookupError):
    """A channel or a position that is outside its layer."""


class RuleError(FeatvizError, ValueError):
    """A backward rule that has no meaning on this network."""


class ImageError(FeatvizError, ValueError):
    """A folder, a list or an image that cannot be used."""


class SizeError(ImageError):
    """An image of another size than the others."""


class ModelError(FeatvizError, ValueError):
    """A model that cannot be built, or an input that it cannot take."""


class WeightsError(FeatvizError, ValueError):
    """A weights file that is missing, unsafe, or does not fit the model."""


class RecordError(FeatvizError, ValueError):
    """A scan on disk that is damaged or belongs to another model, data set or setting."""


class NumberError(FeatvizError, ValueError):
    """An activation that is not a number."""


class UsageError(FeatvizError, ValueError):
    """Any other argument whose value is not allowed."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, or the error's kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
