"""Files that are never half written, and folders that can be written to, by one at a time."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featviz.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".featviz-lock"
"""The file that a process holds while it works in a folder."""
_TEMPORARY = re.compile(r"\..+\.(\d+)\.featviz-part|\.featviz-probe-(\d+)")
_OWN_FOLDERS = ("scan", "images", "pages", "static", "layers/*", "[a-h]/layers/*")
"""Where temporary files can lie below a folder."""
_claimed: set[Path] = set()


def write_atomic(path: Path, data: str | bytes) -> Path:
    """Write a file under a temporary name and move it into place when it is complete, on the disk
    and not only on its way there.

    Args:
        path: the file; its folder is made where it is missing.
        data: text is written as UTF-8; what that has no bytes for, as in the name of a file that is not
            UTF-8 itself, as an escape such as ``\\udce9``.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with arriving(path) as temporary, temporary.open("wb") as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    return path


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """A block that writes a file under another name, from which it is moved when the block ends well.

    Raises:
        OSError: it cannot be written; its ``filename`` is that of the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.featviz-part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # as where a disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)  # a full disk leaves nothing behind


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


@contextmanager
def claimed(folder: Path, on_wait: Callable[[str], None] = _warn) -> Iterator[None]:
    """A block in which no other process claims the folder, which is made where it is missing.

    A folder that another process has claimed is waited for. What processes that died have left half
    written is removed. A claim ends with the block, and with the process, however it ends. Within a
    claim of this process another one is no hindrance. A folder that was made for the claim, and that
    nothing was written to, goes with it.

    Args:
        folder: to be written in.
        on_wait: called once, with a sentence, where there is something to wait for; a warning
            unless something else is given.

    Raises:
        UsageError: the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        check_writable(folder)
        own = folder.resolve()
        if fcntl is None or own in _claimed:
            yield
            return
        handle = _locked(folder, on_wait)
        _claimed.add(own)
        try:
            _remove_left_over(folder)
            yield
        finally:
            _claimed.discard(own)
            # while it is held: whoever waits for the name makes a new file, and sees that it has
            (folder / LOCK).unlink(missing_ok=True)
            _remove_empty(missing)
            os.close(handle)
    finally:
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of some folders, the innermost first, that nothing is in."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _locked(folder: Path, on_wait: Callable[[str], None]) -> int:
    """A handle of the folder's lock file, which this process now holds."""
    path = folder / LOCK
    how = fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        folder.mkdir(parents=True, exist_ok=True)  # its last holder may have removed it
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # only just now
            continue
        try:
            fcntl.flock(handle, how)
            if _is_file_at(handle, path):
                return handle
            os.close(handle)  # it was removed by its last holder
        except BlockingIOError:
            os.close(handle)
            on_wait(
                f"another process works in the folder {str(folder)!r}: waiting until it is done"
            )
            how = fcntl.LOCK_EX  # from now on this waits, and signals interrupt it
        except OSError:  # a file system that knows no locks
            return handle
        except BaseException:  # interrupted while it waits
            os.close(handle)
            raise


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_left_over(folder: Path) -> None:
    """Remove temporary files of processes that are no more."""
    folders = [folder]
    for pattern in _OWN_FOLDERS:
        folders += folder.glob(pattern)
    for own in folders:
        for path in own.glob(".*"):
            name = _TEMPORARY.fullmatch(path.name)
            if name is not None and not _is_alive(int(name[1] or name[2])):
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
