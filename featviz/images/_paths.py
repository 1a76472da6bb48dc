"""Images in files: folders, lists, tar files and shards, on disk or behind an address."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from stat import S_ISREG

from PIL import Image

from featviz.errors import ImageError, UsageError
from featviz.images._folders import folder_of, images_below, stamp_of, suffixes
from featviz.images._tars import Tar, TarImages, local_tar
from featviz.images.collection import Images
from featviz.images.preprocess import Preprocess

THREADS = min(4, max(2, os.cpu_count() or 1))
"""That decode files ahead: Pillow lets go of the interpreter while it works. More of them wait for each other."""
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def from_path(text: str, preprocess: Preprocess, workers: int) -> Images:
    """Images from a folder, a list, a tar file, or shards by a pattern."""
    path = Path(text)
    if path.is_dir():
        return _from_folder(path, preprocess, workers)
    if not path.exists():
        if not is_pattern(text):
            raise ImageError(f"no folder or file {text!r}", "images")
        return from_shards(_matches(text), preprocess, workers)
    if path.is_file():  # a pipe would be waited for
        if path.suffix == ".txt":
            return from_files(path.parent, _lines(path), preprocess, workers)
        if tarfile.is_tarfile(path) or is_tar(path.name):
            return from_tars([""], [local_tar(path)], preprocess, workers, text)
    raise ImageError(f"{text!r} is no folder, no .txt list and no .tar file", "images")


def from_files(root: Path, files: Sequence[Path], preprocess: Preprocess, workers: int) -> Images:
    """Images from files; keys are paths below ``root``."""
    if not files:
        raise ImageError("the list of images is empty", "images")
    keys = [_key(path, root) for path in files]
    labels = [folder_of(key) for key in keys]
    return Images(keys, _Files(root, keys), preprocess, labels, threads=THREADS, workers=workers)


def from_shards(paths: Sequence[Path], preprocess: Preprocess, workers: int) -> Images:
    """Images from tar files; keys begin with the path of the tar file below the folder of all."""
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [f"{_key(path, root)}/" for path in paths]
    tars = [local_tar(path) for path in paths]
    return from_tars(names, tars, preprocess, workers, str(root))


def from_tars(
    names: Sequence[str], tars: Sequence[Tar], preprocess: Preprocess, workers: int, source: str
) -> Images:
    """Images from tar files that were listed.

    Args:
        names: what keys begin with, for each tar file.
        tars: in order.
        source: for messages.
    """
    read = TarImages(tars)
    if workers and read.is_packed:
        raise UsageError(
            f"workers={workers}: a .tar.gz is unpacked and read by threads: unpack it before, or "
            "leave workers at 0",
            "workers",
        )
    keys: list[str] = []
    labels: list[str | None] = []
    for name, tar in zip(names, tars, strict=True):
        keys += [name + member.name for member in tar.members]
        labels += [member.label for member in tar.members]
    if not keys:
        others = ", ".join(f"{number} {reason}" for reason, number in read.left_out.items())
        raise ImageError(f"{source!r} holds no images ({others or 'empty'})", "images")
    return Images(
        keys, read, preprocess, labels, threads=THREADS, workers=workers, left_out=read.left_out
    )


def is_tar(name: str) -> bool:
    """Whether a file is a tar file by its name."""
    return name.lower().endswith(_TAR_SUFFIXES)


def is_pattern(text: str) -> bool:
    """Whether a path stands for several, as ``shards/{000..127}.tar`` and ``shards/*.tar`` do."""
    return "{" in text or glob.has_magic(text)


def expanded(text: str) -> list[str]:
    """The paths that braces stand for: ``{000..127}`` for numbers in order, ``{a,b}`` for each.

    Raises:
        UsageError: the numbers of a range run down.
    """
    braces = re.search(r"\{([^{}]*)\}", text)
    if braces is None:
        return [text]
    paths = []
    for choice in _choices(braces[1]):
        paths += expanded(text[: braces.start()] + choice + text[braces.end() :])
    return list(dict.fromkeys(paths))  # of braces within braces some come twice


def _choices(text: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers is None:
        return text.split(",")
    first, last = numbers.groups()
    if int(first) > int(last):
        raise UsageError(f"{{{text}}}: give the smaller number first", "images")
    return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]


def _matches(pattern: str) -> list[Path]:
    """The files of a pattern: those that braces name, and those that are there of a glob."""
    paths: list[str] = []
    for path in expanded(pattern):
        paths += sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
    if not paths:
        raise ImageError(f"no file matches {pattern!r}", "images")
    return [Path(path) for path in paths]


def _from_folder(folder: Path, preprocess: Preprocess, workers: int) -> Images:
    files, left_out = images_below(folder)
    if files:
        images = from_files(folder, files, preprocess, workers)
        images.left_out = dict(left_out)
        return images
    shards = sorted(path for path in folder.rglob("*") if is_tar(path.name))
    if shards:
        names = [f"{_key(path, folder)}/" for path in shards]
        tars = [local_tar(path) for path in shards]
        return from_tars(names, tars, preprocess, workers, str(folder))
    what = "is empty"
    if left_out:
        what = f"holds {sum(left_out.values())} files, none of them an image"
    raise ImageError(f"the folder {str(folder)!r} {what} ({readable()})", "images")


def readable() -> str:
    """The suffixes of images, for messages."""
    return ", ".join(sorted(suffixes()))


def _lines(path: Path) -> list[Path]:
    """The paths in a list, which are relative to it."""
    # not by splitlines, which ends lines at characters that names may have
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [line.strip() for line in file]
    return [path.parent / line for line in lines if line]


def _key(path: Path, root: Path) -> str:
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return path.as_posix()


@dataclass(frozen=True)
class _Files:
    """Reads files by their keys, which are paths below ``root``, or paths of their own."""

    root: Path
    keys: list[str]

    def __call__(self, index: int) -> Image.Image:
        # at once: each of the many small reads of an open file lets another thread go on, and waits for its turn
        return Image.open(BytesIO(self.content(index)))

    def read_head(self, index: int) -> Image.Image:
        """The picture, of which only the head is read, until its pixels are asked for."""
        return Image.open(self._checked(index))

    def stamp(self, index: int) -> str:
        return stamp_of(self._path(index))

    def content(self, index: int) -> bytes:
        """The bytes of a file."""
        return self._checked(index).read_bytes()

    def _checked(self, index: int) -> Path:
        path = self._path(index)
        if not S_ISREG(path.stat().st_mode):
            raise OSError("it is not a file")  # a pipe would be waited for
        return path

    def _path(self, index: int) -> Path:
        return self.root / self.keys[index]
