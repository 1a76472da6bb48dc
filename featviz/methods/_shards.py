"""Shards of a scan: which images each has, and the folder of its record."""

from __future__ import annotations

from operator import index
from pathlib import Path

from featviz.errors import UsageError
from featviz.records.listing import Range


def checked_shard(shard: tuple[int, int] | None, out: str | Path | None) -> tuple[int, int] | None:
    """A shard i of n, if there is one, and if the folder has shards of no other n.

    Raises:
        UsageError: otherwise.
    """
    if shard is None:
        return None
    try:
        i, n = map(index, shard)
        is_there = 0 <= i < n
    except (TypeError, ValueError):  # no whole numbers, or not two
        is_there = False
    if not is_there:
        raise UsageError(f"shard={shard!r}: give (i, n), a shard i from 0 to n - 1", "shard")
    others = None if out is None else shards_in(Path(out))
    if others not in (None, n):
        raise UsageError(
            f"shard={shard}: {str(out)!r} has shards of {others}: give one of {others}, or another "
            "folder",
            "shard",
            "out",
        )
    return i, n


def range_of(shard: tuple[int, int], images: int, batch_size: int) -> Range:
    """The images of shard i of n: as many batches as of any other, or one more."""
    i, n = shard
    batches = -(-images // batch_size)
    start, stop = (min(j * batches // n * batch_size, images) for j in (i, i + 1))
    return start, stop


def folder_of(out: Path, shard: tuple[int, int]) -> Path:
    """Where the record of shard i of n lies."""
    return out / f"shard-{shard[0]:05d}-of-{shard[1]:05d}"


def shards_in(out: Path) -> int | None:
    """How many shards a folder was divided in; None: there is none yet."""
    for path in out.glob("shard-*-of-*/scan.json"):
        return int(path.parent.name.rpartition("-")[2])
    return None
