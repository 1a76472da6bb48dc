"""Words of the command line: what those of arguments mean, and how names and lists are written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from featviz.errors import RuleError, UsageError
from featviz.names import QUANTILE


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """A whole number, 0 or above."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or above")
    return int(text)


def seconds(text: str) -> float:
    """A time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def height_width(text: str) -> tuple[int, int]:
    """(height, width), from 224 or 192x256."""
    sides = [side.strip() for side in text.lower().split("x")]
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 224 or 192x256 (height x width)"
        )
    return int(sides[0]), int(sides[-1])


def rules(text: str) -> list[str]:
    """Names of rules with commas, each once."""
    from featviz.rules import check_rule

    names = dict.fromkeys(rule.strip() for rule in text.split(","))
    try:
        return [check_rule(name) for name in names]
    except RuleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def views(text: str) -> list[str]:
    """Names of views with commas, each once."""
    from featviz.views import check_views

    try:
        return check_views(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def score(text: str) -> str:
    """The name of a score that is of a position, so that exemplars can be projected."""
    if text == "max":  # the default, which argparse hands to this, too: it needs no torch
        return text
    from featviz.methods._reductions import reduction_of

    try:
        reduction_of(text, "score")
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not text.startswith(QUANTILE):
        raise argparse.ArgumentTypeError(f"{text!r} is of no position: give max or {QUANTILE}0.99")
    return text


def side(text: str) -> int:
    """Pixels; none: 0."""
    if text == "none":
        return 0
    return positive(text)


def share(text: str) -> tuple[int, int]:
    """(i, n), from 3/16."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 0/16 or 15/16")
    return int(i), int(n)


def amount(text: str) -> int:
    """Bytes, from 500M or 2G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])i?B?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory such as 500M or 2G")
    unit = {"M": 2**20, "G": 2**30}[match[2].upper()]
    return int(float(match[1]) * unit)


def numbers(text: str) -> list[int]:
    """Whole numbers with commas."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers such as 0,5,17"
        ) from None


def floats(text: str) -> tuple[float, ...]:
    """One number, or one per channel, with commas."""
    try:
        values = tuple(float(number) for number in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or 3 numbers such as 0.5,0.5,0.5")
    return values


def limits(text: str) -> tuple[float, float]:
    """Two numbers with a comma, the first below the second."""
    try:
        black, white = (float(number) for number in text.split(","))
        if -float("inf") < black < white < float("inf"):
            return black, white
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is not what is black and what is white, such as 0,4095"
    )


def first_few(items: Sequence[object], n: int) -> str:
    """The first n with commas, and dots where there are more."""
    shown = ", ".join(map(str, items[:n]))
    return f"{shown}, ..." if len(items) > n else shown


def slug(name: str) -> str:
    """A name as it may stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "_", name)[:80]
