"""Files that are never half written, and folders that can be written to."""

from __future__ import annotations

import os
from pathlib import Path

from featviz.errors import UsageError


def write_atomic(path: Path, data: str | bytes) -> Path:
    """Write a file under a temporary name and move it into place when it is complete.

    Args:
        path: the file; its folder is made where it is missing.
        data: text is written as UTF-8.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk leaves nothing behind
        raise
    return path


def check_writable(folder: Path) -> None:
    """Make sure that files can be made in a folder, and make it: known before the work, not after.

    Raises:
        UsageError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".featviz-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"the folder {str(folder)!r} cannot be written: {reason}", "out"
        ) from error
