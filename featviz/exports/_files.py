"""The folder of an export: its manifest, and that nothing but an earlier export is written over."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from featviz.errors import UsageError
from featviz.files import write_atomic
from featviz.records import _fields as fields

MANIFEST = "export.json"
SCHEMA = 1
_PLAIN = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,150}")


def file_name(layer: str) -> str:
    """The name of a layer as that of a file or folder, where a format asks for it.

    Raises:
        UsageError: it cannot be one.
    """
    if not _PLAIN.fullmatch(layer):
        raise UsageError(
            f"the layer {layer!r} cannot be the name of a file, which this format asks for: rename the "
            "module or the directions, or scan without it"
        )
    return layer


def begin(folder: Path, files: Sequence[str], about: dict[str, Any]) -> None:
    """Make room for an export and say what it will consist of: the files of an earlier one go, and
    nothing else.

    Args:
        folder: to be written in.
        files: relative paths of all files but the manifest.
        about: what the manifest says of them.

    Raises:
        UsageError: one of the files is there, and is of no export.
    """
    old = folder / MANIFEST
    if old.exists():
        earlier = _files_of(old)
        _remove(folder, earlier)
    for name in files:
        if (folder / name).exists():
            raise UsageError(
                f"{str(folder)!r} holds {name!r}, which is of no export: choose another folder",
                "out",
            )
    for parent in {(folder / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    _write(folder, about, files, complete=False)


def finish(folder: Path, files: Sequence[str], about: dict[str, Any]) -> None:
    """Say that all files are there."""
    _write(folder, about, files, complete=True)


def _write(folder: Path, about: dict[str, Any], files: Sequence[str], complete: bool) -> None:
    content = {"schema": SCHEMA, "complete": complete} | about | {"files": list(files)}
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1))


def _files_of(manifest: Path) -> list[str]:
    """What an earlier export consists of: no path that leads out of its folder.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content = fields.Entry(json.loads(manifest.read_bytes()))
        files: list[str] = content.take("files", fields.list_of(fields.text))
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} leads out of the folder")
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{str(manifest)!r} is of no export ({error}): choose another folder", "out"
        ) from error
    return files


def _remove(folder: Path, files: Sequence[str]) -> None:
    """Remove files, what a process that died has left of them, and folders that are empty then."""
    parents = {(folder / name).parent for name in files}
    for name in files:
        (folder / name).unlink(missing_ok=True)
    for parent in parents:
        for left in parent.glob(".*.featviz-part"):
            left.unlink(missing_ok=True)
        while parent != folder:
            with suppress(OSError):
                parent.rmdir()
            parent = parent.parent
