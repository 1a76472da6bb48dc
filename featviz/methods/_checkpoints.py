"""The checkpoints of a training, by their epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from featviz.errors import UsageError, WeightsError
from featviz.records._progress import differences
from featviz.records._runs import run_of

Checkpoints = str | Path | Mapping[int, str | Path]
"""A folder of ``epoch-NNN.pt``, or a file for each epoch."""


def files_of(checkpoints: Checkpoints) -> dict[int, Path]:
    """The file of each epoch, in order."""
    if isinstance(checkpoints, (str, Path)):
        files = _in_folder(Path(checkpoints))
    else:
        files = {epoch: Path(path) for epoch, path in checkpoints.items()}
    if len(files) < 2:
        raise UsageError(f"{len(files)} checkpoint: to see a feature develop takes at least 2")
    in_order = dict(sorted(files.items()))
    _check_same_run(list(in_order.values()))
    return in_order


def _check_same_run(paths: Sequence[Path]) -> None:
    """Make sure that checkpoints which say what their training was made from say the same."""
    known = [(path, run) for path in paths if (run := run_of(path)) is not None]
    for path, run in known[1:]:
        first, earlier = known[0]
        if others := differences(earlier, run):
            raise WeightsError(
                f"{path.name!r} is of another training than {first.name!r}: {'; '.join(others)}. Give the "
                "checkpoints of one training",
                "checkpoints",
            )


def _in_folder(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        raise WeightsError(f"no folder {str(folder)!r} of checkpoints")
    files = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"epoch-(\d+)\.pt", path.name)
        if match:
            files[int(match[1])] = path
    if not files:
        raise WeightsError(
            f"the folder {str(folder)!r} holds no checkpoints: "
            "their names are epoch-NNN.pt, such as epoch-005.pt"
        )
    return files
