"""The classes of a network by the names of a file, where the labels of images are not all of them."""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from featviz import Images
from featviz.errors import UsageError, did_you_mean

Row = Sequence[str]
"""What a file calls one class, such as its number, its WordNet id and its name."""


def add_classes(parser: argparse.ArgumentParser) -> None:
    """--classes."""
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="the network's classes in their order, one a line: its names, of which a label is any, separated by "
        "tabs (in a .csv by commas), and the last of which is shown (default: the labels of the images, "
        "sorted, if there are as many)",
    )


def rows_in(path: Path) -> list[Row]:
    """What a file calls the classes of a network, in their order.

    Raises:
        UsageError: it cannot be read, or names none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes: {str(path)!r} cannot be read: {error}") from error
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(StringIO(text, newline="")) if row]
    else:
        rows = [line.split("\t") for line in text.split("\n") if line.strip()]
    if not rows:
        raise UsageError(f"--classes: {str(path)!r} is empty: give a class in each line")
    return [[_plain(name) for name in row] for row in rows]


def names_of(rows: Sequence[Row]) -> list[str]:
    """The name of each class that is shown; of a name that several have, with the number of the class."""
    counts = Counter(row[-1] for row in rows)
    names = []
    for number, row in enumerate(rows):
        name = row[-1]
        names.append(name if counts[name] == 1 else f"{name} ({number})")
    return names


def named(args: argparse.Namespace, images: Images) -> Images:
    """Images with the names that --classes has for their labels; labels that it does not have stay.

    Raises:
        UsageError: it has none of the labels, or one of several classes.
    """
    labels = {label for label in images.labels if label is not None}
    if args.classes is None or args.images is None or not labels:
        return images
    rows = rows_in(args.classes)
    names, numbers = names_of(rows), _numbers(rows)
    shown: dict[str, str] = {}
    for label in sorted(own for own in labels if _plain(own) in numbers):
        meant = sorted(numbers[_plain(label)])
        if len(meant) > 1:
            raise UsageError(
                f"--classes: the label {label!r} is of the classes {', '.join(map(str, meant))}: "
                "label images by a name that one class has, such as its WordNet id (--labels)"
            )
        shown[label] = names[meant[0]]
    if not shown:
        first = min(labels)
        raise UsageError(
            f"--classes: {str(args.classes)!r} has none of the labels, such as {first!r}"
            f"{did_you_mean(first, numbers)}: give --labels FILE|PATTERN"
        )
    pairs = zip(images.keys, images.labels, strict=True)
    return images.labelled(
        {key: shown.get(label, label) for key, label in pairs if label is not None}
    )


def _numbers(rows: Sequence[Row]) -> dict[str, set[int]]:
    """The numbers of the classes that have a name, by the name."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for number, row in enumerate(rows):
        for name in row:
            numbers[name].add(number)
    return dict(numbers)


def _plain(name: str) -> str:
    """A name as it is compared: names of files have underscores for spaces."""
    return name.strip().replace("_", " ")
