"""Labels of images that their folders do not give: from a file, or from their names."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from featviz.errors import UsageError, did_you_mean, first_line

LabelsLike = Mapping[str, str] | re.Pattern[str] | str | Path
"""As of `Images.labelled`."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FILES = (*_DELIMITERS, ".json")
_COMPARED = 1000
"""Keys among which the closest is looked for; of all of a large data set that takes minutes."""


def as_text(label: Any) -> str | None:
    """A label as text, as records have it: a number too, of numpy's or torch's kind; None stays None."""
    if label is None:
        return None
    return str(label.item() if hasattr(label, "item") else label)


def labels_of(keys: Sequence[str], labels: LabelsLike) -> list[str | None]:
    """The label of each key; None where there is none. Arguments and errors are those of
    `Images.labelled`."""
    if isinstance(labels, Mapping):
        return _by_key(keys, labels, "the mapping")
    if isinstance(labels, Path) or (isinstance(labels, str) and labels.lower().endswith(_FILES)):
        path = Path(labels)
        return _by_key(keys, _read(path), f"the file {str(path)!r}")
    return _by_pattern(keys, labels)


def _by_pattern(keys: Sequence[str], pattern: str | re.Pattern[str]) -> list[str | None]:
    """What the pattern's group matches in each key."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is no regular expression ({error}), nor a file {', '.join(_FILES)}",
            "labels",
        ) from error
    if compiled.groups != 1:
        raise UsageError(
            f"the pattern {compiled.pattern!r} has {compiled.groups} groups: put the label, and "
            r"nothing else, in brackets, such as 'n\d+_(.+)\.'",
            "labels",
        )
    matches = [compiled.search(key) for key in keys]
    if not any(matches):
        raise UsageError(
            f"the pattern {compiled.pattern!r} matches no image: the first is {keys[0]!r}", "labels"
        )
    return [match[1] if match else None for match in matches]


def _by_key(keys: Sequence[str], labels: Mapping[str, str], source: str) -> list[str | None]:
    """The labels of keys, or of their file names where they are listed so."""
    own: list[str | None] = []
    for key in keys:
        name = key.rpartition("/")[2]
        own.append(labels.get(key, labels.get(name)))
    if all(label is None for label in own):
        first = next(iter(labels), "")
        raise UsageError(
            f"{source} names none of the {len(keys)} images: it has {first!r}, an image is "
            f"{keys[0]!r}{did_you_mean(first, keys[:_COMPARED])}",
            "labels",
        )
    return own


def _read(path: Path) -> dict[str, str]:
    """Labels by key from a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the labels {str(path)!r} cannot be read: {first_line(error)}", "labels"
        ) from error
    if path.suffix.lower() == ".json":
        return _from_json(path, text)
    try:
        return _from_rows(path, text)
    except csv.Error as error:
        raise UsageError(
            f"the labels {str(path)!r} cannot be read: {first_line(error)}: "
            "is there a quote that is not closed?",
            "labels",
        ) from error


def _from_rows(path: Path, text: str) -> dict[str, str]:
    """From lines of a key and a label; where that is empty, the image has none."""
    labels = {}
    # not by splitlines, which ends lines at characters that names may have
    lines = csv.reader(StringIO(text, newline=None), delimiter=_DELIMITERS[path.suffix.lower()])
    for number, row in enumerate(lines, 1):
        if len(row) == 1 or (len(row) > 1 and not row[0]):
            raise UsageError(
                f"line {number} of {str(path)!r} is {row}: give the key of an image and its label",
                "labels",
            )
        if row and row[1]:
            labels[row[0]] = row[1]
    return labels


def _from_json(path: Path, text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is no JSON: {first_line(error)}", "labels") from error
    if not isinstance(value, dict):
        raise UsageError(
            f"{str(path)!r} holds a {type(value).__name__}: give an object of keys and their labels",
            "labels",
        )
    return {key: str(label) for key, label in value.items() if label is not None}
