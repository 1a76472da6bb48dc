"""Records that are made image by image: whether one on disk may be gone on with, and what of it has to
be done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from featviz.errors import RecordError
from featviz.records import _fields as fields
from featviz.records._arrays import hash_of
from featviz.records._fields import Entry
from featviz.records.listing import Listing, Range, Skipped, is_in

_OTHER_LABELS = "its images have other labels"


class Progress(Protocol):
    """What such a record has: see `Scan`."""

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def listing(self) -> Listing: ...

    @property
    def ranges(self) -> list[Range]: ...

    @property
    def skipped(self) -> list[Skipped]: ...


def check_resumes(earlier: Progress, begun: Progress) -> None:
    """Make sure that a record, read from disk, was made from the same things as another that is about
    to begin.

    Args:
        earlier, begun: the two.

    Raises:
        RecordError: it was not; the message says what differs.
    """
    # images of the same names can come in another size
    before = earlier.identity | {"input_shape": earlier.listing.input_shape}
    others = []
    for key, value in (begun.identity | {"input_shape": begun.listing.input_shape}).items():
        if key == "images" and earlier.listing.keys == begun.listing.keys:
            others += _changes(earlier, begun)
            others += _other_content(earlier, begun)
        elif key == "images":
            others.append(_other_images(earlier.listing, begun.listing))
        elif before.get(key) != value:
            others.append(change(key, before.get(key), value))
    if others:
        same = ["give the labels of the record"] if _OTHER_LABELS in others else []
        remedy = ", or ".join(["choose another folder", *same, "begin afresh"])
        raise RecordError(
            f"the record on disk was made from something else: {'; '.join(others)}. "
            f"{remedy.capitalize()}",
            "out",
            *(["labels"] if same else []),
            "fresh",
        )


def _other_images(old: Listing, new: Listing) -> str:
    """In words, how the images of one listing are others than those of an earlier one."""
    known = set(old.keys)
    others = [key for key in new.keys if key not in known]
    if others and len(others) == len(new):
        now = f"{len(new)} others, the first {others[0]!r}"
    elif others:
        now = f"{len(new)} images, {len(others)} of them others, the first {others[0]!r}"
    elif len(new) < len(old):
        now = f"{len(new)} of them"
    else:
        now = f"{len(new)} in another order"
    return f"images was {len(old)} images, is {now}"


def _changes(earlier: Progress, begun: Progress) -> list[str]:
    """In words, how many of the images that the record has looked at are others by now."""
    skipped = {entry.index for entry in earlier.skipped}
    changed = [i for i in _changed(earlier, begun) if is_in(earlier.ranges, i) and i not in skipped]
    if not changed:
        return []
    first = earlier.listing.keys[changed[0]]
    return [f"{len(changed)} of its images have changed since, the first {first!r}"]


def _other_content(earlier: Progress, begun: Progress) -> list[str]:
    """In words, whether images that are no files are others of the same names, or have other labels."""
    old, new = earlier.listing, begun.listing
    if old.input_shape != new.input_shape:
        return []  # which is said already
    if old.labels != new.labels:
        return [_OTHER_LABELS]
    is_other = earlier.identity["images"] != begun.identity["images"]
    if is_other and not any(old.stamps) and not any(new.stamps):
        return ["its images are others of the same names"]
    return []


def _changed(earlier: Progress, begun: Progress) -> list[int]:
    stamps = zip(earlier.listing.stamps, begun.listing.stamps, strict=True)
    return [i for i, (before, now) in enumerate(stamps) if before != now]


def stale(earlier: Progress, begun: Progress) -> list[int]:
    """The images that could not be read when the record looked at them and have changed since."""
    changed = set(_changed(earlier, begun))
    return [skipped.index for skipped in earlier.skipped if skipped.index in changed]


def checksum(manifest: Mapping[str, Any]) -> str:
    """A hash of a manifest but for the checksum itself."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hash_of(json.dumps(rest, sort_keys=True).encode())


def check_schema(path: Path, manifest: Entry, schema: int, remedy: str) -> None:
    """Make sure that a manifest is of the schema that this version reads.

    Raises:
        RecordError: it is of another; the message ends with the remedy.
    """
    own = manifest.value["schema"]
    if own != schema or isinstance(own, bool):
        raise RecordError(
            f"{str(path)!r} has schema {short(own)}, this version reads {schema}: {remedy}", "fresh"
        )


def check_written(manifest: Entry) -> None:
    """Make sure that a manifest is as it was written.

    Raises:
        ValueError: its checksum is another.
    """
    if manifest.take("checksum", fields.text) != checksum(manifest.value):
        raise ValueError("the manifest is not as it was written: its checksum is another")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, by what two records of what something is made from differ, the earlier and that of now."""
    keys = dict.fromkeys([*now, *earlier])
    return [
        change(key, earlier.get(key), now.get(key))
        for key in keys
        if earlier.get(key) != now.get(key)
    ]


def change(key: str, before: Any, now: Any) -> str:
    """In words, that something is another than it was: of settings by name each that is, of lists that begin alike what
    one of them has alone."""
    if isinstance(before, dict) and isinstance(now, dict):
        return "; ".join(f"{key} {words}" for words in differences(before, now))
    lists = isinstance(before, list) and isinstance(now, list)
    if not lists or short(before) != short(now):
        return f"{key} was {short(before)}, is {short(now)}"
    gone, new = _missing(before, now), _missing(now, before)
    if not gone and not new:
        return f"{key} are in another order"
    without, with_ = _apart(gone, new)
    return f"{key} were {len(before)}, are {len(now)}, without {without}, with {with_}"


def _missing(entries: list[Any], others: list[Any]) -> list[Any]:
    """Those entries that are not among others."""
    there = set(map(json.dumps, others))
    return [entry for entry in entries if json.dumps(entry) not in there]


def _apart(before: Any, now: Any) -> tuple[str, str]:
    """Two values in short; where those begin alike, from shortly before they differ."""
    texts = json.dumps(before), json.dumps(now)
    if short(before) != short(now):
        return short(before), short(now)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    start = max(0, len(list(alike)) - 30)
    first, second = (f"...{text[start : start + 54]}..." for text in texts)
    return first, second


def short(value: Any) -> str:
    """A value of a manifest in no more than 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
