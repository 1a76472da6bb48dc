"""Sets of images as ranges of indices, in order and apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featviz.records.listing import Range


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, those that touch as one; empty ones are left out.

    Example:
        >>> from featviz.records._ranges import joined
        >>> joined([(8, 9), (0, 4), (4, 6), (7, 7)])
        [(0, 6), (8, 9)]
    """
    result: list[Range] = []
    for start, stop in sorted(own for own in ranges if own[0] < own[1]):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(stop, result[-1][1])
        else:
            result.append((start, stop))
    return result


def is_within(ranges: Iterable[Range], others: Sequence[Range]) -> bool:
    """Whether all of some ranges lie in others."""
    return all(
        start >= stop or any(a <= start and stop <= b for a, b in others) for start, stop in ranges
    )


def overlap(ranges: Iterable[Range], others: Sequence[Range]) -> bool:
    """Whether an image lies in both."""
    return any(max(start, a) < min(stop, b) for start, stop in ranges for a, b in others)


def without(span: Range, ranges: Sequence[Range]) -> list[Range]:
    """What of a range does not lie in others."""
    left = []
    begin = span[0]
    for start, stop in joined(ranges):
        left.append((begin, start))
        begin = max(begin, stop)
    left.append((begin, span[1]))
    return joined(left)


def in_words(ranges: Sequence[Range]) -> str:
    """Ranges as a message names them, both ends included."""
    return ", ".join(f"{start} to {stop - 1}" for start, stop in ranges) or "none"
