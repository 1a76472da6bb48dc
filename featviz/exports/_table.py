"""A table of all exemplars, for a spreadsheet or pandas: comma-separated values."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from featviz.exports._subject import Slot, Subject
from featviz.files import write_atomic
from featviz.records.peaks import NONE

TABLE = "exemplars.csv"
COLUMNS = (
    "layer",
    "unit",
    "rank",
    "image",
    "key",
    "label",
    "score",
    "y",
    "x",
    "top",
    "left",
    "bottom",
    "right",
)


def table_files(subject: Subject) -> list[str]:
    """The file that `write_table` writes."""
    return [TABLE]


def write_table(folder: Path, subject: Subject) -> None:
    """Write a row for each exemplar, unit by unit, the strongest first."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, channels in subject.channels.items():
        images = subject.result[name].top.images
        for row, channel in enumerate(channels):
            ranks = (images[channel] != NONE).nonzero().flatten().tolist()
            writer.writerows(subject.exemplar(Slot(name, row, rank)) for rank in ranks)
    write_atomic(folder / TABLE, buffer.getvalue())
