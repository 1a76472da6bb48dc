"""One scan of the shards of a data set, whoever made them, in whatever order, and however often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from featviz.errors import RecordError, UsageError
from featviz.records._ranges import in_words, without
from featviz.records.scan import Scan


def merge(
    shards: str | Path | Scan | Iterable[Scan | str | Path], *, out: str | Path | None = None
) -> Scan:
    """Merge scans of parts of a data set to the scan of all of it.

    The result has the bits of one scan of all the images, but for rounding in the network where
    shards are not of whole batches. A shard that comes twice counts once, so shards may be made again
    where it is not known whether they were.

    Args:
        shards: the folder that `scan` was given for all shards, or scans and folders of scans. One
            after another is read, so that only two are in memory.
        out: folder where the result is written.

    Raises:
        RecordError: no shard is there, one is damaged or of something else, or images are missing;
            the message says which.
        UsageError: ``shards`` is empty.

    Example:
        >>> from featviz import load_model, merge, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> shards = [scan(model, images, "conv1", batch_size=2, shard=(i, 3)) for i in range(3)]
        >>> merge(shards)
        <Scan of 1 layers, 32 units, k=9, 8 of 8 images>
    """
    result: Scan | None = None
    for own in _records(shards):
        record = own if isinstance(own, Scan) else Scan.load(own)
        if result is None:
            result = replace(record, shard=None)
        else:
            result = _merged(result, record, own)
    if result is None:
        raise UsageError("there are no shards to merge: give at least one", "shards")
    missing = without((0, len(result.listing)), result.ranges)
    if missing:
        raise RecordError(
            f"the images {in_words(missing)} of {len(result.listing)} are in no shard: scan the "
            "shards that are missing, or not finished, and merge again",
        )
    if out is not None:
        result.save(out)
    return result


def _merged(result: Scan, record: Scan, source: Scan | str | Path) -> Scan:
    """The two as one; an error names the folder of the record, if it is of one."""
    try:
        return result.merge(record)
    except RecordError as error:
        if isinstance(source, Scan):
            raise
        message = f"{str(source)!r} and those before it do not go together: {error}"
        raise RecordError(message, *error.arguments) from error


def _records(shards: str | Path | Scan | Iterable[Scan | str | Path]) -> list[Scan | str | Path]:
    if isinstance(shards, Scan):  # whose items are its layers
        return [shards]
    if not isinstance(shards, (str, Path)):
        return list(shards)
    folders = sorted(path.parent for path in Path(shards).glob("shard-*-of-*/scan.json"))
    if not folders:
        raise RecordError(
            f"{no_shards(Path(shards))}: scan with shard=(i, n) and out={str(shards)!r}"
        )
    return list(folders)


def no_shards(folder: Path) -> str:
    """In words, that a folder has none."""
    kind = "no shards in" if folder.is_dir() else "no shards, since there is no folder"
    return f"{kind} {str(folder)!r}"
