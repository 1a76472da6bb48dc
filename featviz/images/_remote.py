"""Images behind an address, such as ``s3://bucket/photos``, by fsspec."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, cast

from PIL import Image

from featviz.errors import FeatvizError, ImageError, UsageError, first_line
from featviz.images._folders import folder_of, is_hidden, why_left_out
from featviz.images._paths import THREADS, expanded, from_tars, is_pattern, is_tar, readable
from featviz.images._tars import Tar, opened_tar
from featviz.images.collection import Images
from featviz.images.preprocess import Preprocess

_CHANGED = (
    "ETag", "etag", "blob_id", "sha", "CRC", "mtime", "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
"""Where file systems say which version of a file there is; the first that is there."""


def is_address(text: str) -> bool:
    """Whether a path begins with a scheme, such as ``s3://``."""
    return "://" in text


def from_address(address: str, preprocess: Preprocess, workers: int) -> Images:
    """Images from a folder, a tar file or shards behind an address.

    Raises:
        UsageError: fsspec is not installed, or workers are asked for.
        ImageError: nothing is there, or it cannot be read.
    """
    if workers:
        raise UsageError(
            f"workers={workers}: what is behind an address is read by threads, so leave workers at 0",
            "workers",
        )
    try:
        files, path = _file_system(address)
        if is_pattern(path) or is_tar(path):
            return _from_tars(files, path, address, preprocess)
        return _from_folder(files, path, address, preprocess)
    except FeatvizError:
        raise
    except Exception as error:  # file systems raise errors of every kind
        raise ImageError(f"{address!r} cannot be read: {first_line(error)}", "images") from error


def _file_system(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            f"{address!r}: addresses are read by fsspec, which is not installed "
            "(pip install fsspec)",
            "images",
        ) from None
    files, path = cast(Any, url_to_fs)(address)
    return files, str(path)


def _from_folder(files: Any, folder: str, address: str, preprocess: Preprocess) -> Images:
    paths: list[str] = []
    keys: list[str] = []
    stamps: list[str] = []
    shards: list[str] = []
    left_out: Counter[str] = Counter()
    for path, status in sorted(files.find(folder, detail=True).items()):
        key = path[len(folder) :].lstrip("/") or path
        reason = _why_left_out(key)
        if reason is None:
            paths.append(path)
            keys.append(key)
            stamps.append(_stamp(status))
        else:
            left_out[reason] += 1
            if is_tar(key):
                shards.append(path)
    if not keys and shards:
        return _of_shards(files, shards, folder, address, preprocess)
    if not keys:
        raise ImageError(f"{address!r} holds no images ({readable()})", "images")
    labels = [folder_of(key) for key in keys]
    read = _RemoteFiles(files, paths, stamps)
    return Images(keys, read, preprocess, labels, threads=THREADS, left_out=left_out)


def _why_left_out(key: str) -> str | None:
    *folders, name = PurePosixPath(key).parts
    if any(is_hidden(folder) for folder in folders):
        return "files in hidden folders"
    return why_left_out(name)


def _from_tars(files: Any, pattern: str, address: str, preprocess: Preprocess) -> Images:
    if not is_pattern(pattern):
        return from_tars([""], [_tar(files, pattern)], preprocess, 0, address)
    paths: list[str] = []
    for path in expanded(pattern):
        paths += sorted(files.glob(path)) if glob.has_magic(path) else [path]
    if not paths:
        raise ImageError(f"no file matches {address!r}", "images")
    return _of_shards(files, paths, _common_folder(paths), address, preprocess)


def _common_folder(paths: list[str]) -> str:
    """The innermost folder that all paths lie below."""
    folders = [path.split("/")[:-1] for path in paths]
    common = []
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "/".join(common)


def _of_shards(
    files: Any, paths: list[str], folder: str, address: str, preprocess: Preprocess
) -> Images:
    names = [path[len(folder) :].lstrip("/") + "/" for path in paths]
    tars = [_tar(files, path) for path in paths]
    return from_tars(names, tars, preprocess, 0, address)


def _tar(files: Any, path: str) -> Tar:
    try:
        stamp = _stamp(files.info(path))
    except FileNotFoundError:
        raise ImageError(f"no file {path!r}", "images") from None
    return opened_tar(path, lambda: files.open(path, "rb"), _RemoteRange(files, path), stamp)


def _stamp(status: Mapping[str, Any]) -> str:
    """Size and version of a file when it was listed."""
    version = next((status[name] for name in _CHANGED if status.get(name)), "")
    return f"{status.get('size')} {version}"


@dataclass(frozen=True)
class _RemoteRange:
    """Reads bytes of a file."""

    files: Any
    path: str

    def __call__(self, offset: int, size: int) -> bytes:
        data: bytes = self.files.cat_file(self.path, start=offset, end=offset + size)
        return data


@dataclass(frozen=True)
class _RemoteFiles:
    """Reads files."""

    files: Any
    paths: list[str]
    stamps: list[str]

    def __call__(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.content(index)))

    def content(self, index: int) -> bytes:
        """The bytes of a file."""
        data: bytes = self.files.cat_file(self.paths[index])
        return data

    def stamp(self, index: int) -> str:
        """Of the file when it was listed."""
        return self.stamps[index]
