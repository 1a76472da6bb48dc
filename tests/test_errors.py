"""The tree of errors, and what every one of them carries."""

from __future__ import annotations

import inspect
import pickle

import pytest

import featviz
from featviz import errors
from featviz.errors import FeatvizError, LayerError, RecordError, did_you_mean, first_line

CLASSES = [
    thing
    for thing in vars(errors).values()
    if inspect.isclass(thing) and issubclass(thing, Exception)
]
LOOKUPS = {"LayerError", "UnitError"}


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_drawn_exported_and_caught_at_the_root(error: type[Exception]) -> None:
    name = error.__name__
    assert issubclass(error, FeatvizError)
    assert name in (errors.__doc__ or "")
    assert getattr(featviz, name) is error
    assert name in featviz.__all__
    assert error.__doc__


@pytest.mark.parametrize("error", [error for error in CLASSES if error is not FeatvizError])
def test_every_error_is_one_of_pythons_own_too(error: type[Exception]) -> None:
    lookup = error.__name__ in LOOKUPS
    assert issubclass(error, LookupError) == lookup
    assert issubclass(error, ValueError) != lookup


def test_an_error_carries_the_arguments_that_are_the_remedy() -> None:
    error = RecordError("choose another folder", "out", "fresh")
    assert str(error) == "choose another folder"
    assert error.arguments == ("out", "fresh")
    assert LayerError("no layer 'x'").arguments == ()


def test_a_message_shows_without_quotes_around_it() -> None:
    """As that of a KeyError would not."""
    assert str(LayerError("no layer 'x'")) == "no layer 'x'"


def test_an_error_comes_through_a_process_boundary() -> None:
    """Data loaders send theirs."""
    error = pickle.loads(pickle.dumps(RecordError("a message", "out")))
    assert (type(error), str(error), error.arguments) == (RecordError, "a message", ("out",))


def test_the_nearest_name() -> None:
    assert did_you_mean("covn1", ["conv1", "fc6"]) == "; did you mean 'conv1'?"
    assert did_you_mean("xyz", ["conv1"]) == ""
    assert did_you_mean("xyz", []) == ""


def test_the_first_line_of_a_foreign_message() -> None:
    assert first_line(RuntimeError("first\nsecond")) == "first"
    assert first_line(RuntimeError()) == "RuntimeError"
