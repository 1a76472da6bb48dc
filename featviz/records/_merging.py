"""Records that are made of the same images, or of the same things: whether two are one."""

from __future__ import annotations

from collections.abc import Collection

from featviz.errors import RecordError
from featviz.records._progress import Progress


def skips(record: Progress) -> tuple[int, list[tuple[int, str]]]:
    """Of two records of the same images the one that could read more of them comes first."""
    skipped = [(entry.index, entry.reason) for entry in record.skipped]
    return len(skipped), skipped


def check_mergeable(first: Progress, second: Progress, apart: Collection[str]) -> None:
    """Make sure that two records are of the same things.

    Args:
        first, second: the two.
        apart: of what identifies them, that in which they may differ.

    Raises:
        RecordError: they are not; the message says what differs.
    """
    differing = [
        key
        for key in sorted({*first.identity, *second.identity}.difference(apart))
        if first.identity.get(key) != second.identity.get(key)
    ]
    listings = (first.listing, second.listing)
    listed = [(own.keys, own.labels, own.input_shape, own.sizes) for own in listings]
    if listed[0] != listed[1]:
        differing.append("images")
    if differing:
        raise RecordError(
            f"two scans of other {', '.join(dict.fromkeys(differing))} do not merge: scan all shards "
            "with the same model, weights, images, layers, k, score and precision"
        )
